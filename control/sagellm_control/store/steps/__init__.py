"""The atomic changes of state: one Lua script and one typed function a step, side by side."""
