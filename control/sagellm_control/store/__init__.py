"""All that talks to Redis: the connections, the steps (one script each), and read-only views."""
