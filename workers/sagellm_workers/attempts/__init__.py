"""One attempt of a request, from its assignment to its report: run on an engine, and what is said of it written."""
