"""What the commands exit with, beside click's own codes."""

INTERRUPTED = 130
"""After Ctrl-C, as shells have it."""
