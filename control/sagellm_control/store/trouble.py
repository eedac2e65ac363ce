"""What a loop does that goes on whatever happens."""

from __future__ import annotations

import logging

from redis.exceptions import RedisError


def log_trouble(log: logging.Logger, what: str, error: Exception) -> None:
    """Say what went wrong. That Redis is away is a line; anything else is a bug of ours, or something in the shared
    state that nobody should have written, and has its traceback: the loop goes on, as others depend on it."""
    if isinstance(error, RedisError | OSError):
        log.warning("%s: %s", what, error)
    else:
        log.error("%s: %r; going on", what, error, exc_info=error)
