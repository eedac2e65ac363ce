"""Decides who is next and on which engine: the loop of a pool, the orders, the placements."""
