"""Arrivals, order, placement, engines: a discrete-event simulation with the very policy objects of production."""
