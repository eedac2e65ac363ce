"""How much an engine is given: all its places, some, one to show that it is well, or nothing."""
