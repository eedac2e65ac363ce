"""How many requests one scheduler process moves, whatever the number of engines and of requests that wait."""
