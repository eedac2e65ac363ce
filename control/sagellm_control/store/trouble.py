"""What a loop says that goes on whatever happens."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from redis.exceptions import RedisError


class Trouble:
    """One thing that is tried again and again, and what the log says of it.

    That Redis is away is a line for each kind of error, however many tries it takes, and another one when it is over.
    Anything else is a bug of ours, or something in the shared state that nobody should have written: it has its
    traceback each time, and the loop goes on, as others depend on it.

    Args:
        what: what goes wrong, for the log.
    """

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._told: set[type[Exception]] = set()

    def tell(self, error: Exception) -> None:
        """A try has failed."""
        if not isinstance(error, RedisError | OSError):
            self._log.error("%s: %r; going on", self._what, error, exc_info=error)
        elif type(error) not in self._told:
            self._told.add(type(error))
            self._log.warning("%s: %s", self._what, error)

    def over(self) -> None:
        """A try has gone well."""
        if self._told:
            self._told.clear()
            self._log.info("%s: that is over", self._what)

    @contextmanager
    def told(self) -> Generator[None, None, None]:
        """One try: an error in it is told and goes no further; without one the trouble is over."""
        try:
            yield
        except Exception as error:
            self.tell(error)
        else:
            self.over()
