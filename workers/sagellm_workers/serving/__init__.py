"""One engine from being found to its retirement: its rows, the session of each, and the work that it reads."""
