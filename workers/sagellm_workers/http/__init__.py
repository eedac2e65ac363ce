"""HTTP with engines: the one client, its connections, and the short way of a request."""
