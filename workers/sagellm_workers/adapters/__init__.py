"""How a worker talks to an engine: one adapter a wire, all with the same face (see `base`)."""
