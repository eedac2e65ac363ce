"""What is still open when a stopping gateway has waited long enough: it is ended, so that its client can be told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from .errors import GatewayStopping


class Closing:
    """All that a gateway can end before its time."""

    def __init__(self) -> None:
        self._open: set[asyncio.Timeout] = set()
        self._spared: set[asyncio.Timeout] = set()
        self._reading: set[asyncio.Timeout] = set()
        self._hears = True
        self.ended = False
        """Nothing is waited for any more."""

    @asynccontextmanager
    async def endable(self) -> AsyncGenerator[asyncio.Timeout, None]:
        """What is done in here is interrupted, wherever it is, when the gateway waits no longer; gives its limit.

        Raises:
            GatewayStopping: it was, or would have to be at once.
        """
        if self.ended:
            raise GatewayStopping
        # A timeout and not a task's ``cancel``: that is also how a handler hears that its client has left.
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._open.add(limit)
                try:
                    yield limit
                finally:
                    self._open.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise GatewayStopping from None

    @contextmanager
    def spared(self, limit: asyncio.Timeout) -> Generator[None, None, None]:
        """Not even the end interrupts this write: aiohttp waits for no client whose last write was interrupted.

        Raises:
            GatewayStopping: before or afterwards, if the end has come.
        """
        if self.ended:
            raise GatewayStopping
        self._spared.add(limit)
        try:
            yield
        finally:
            self._spared.discard(limit)
        if self.ended:
            raise GatewayStopping

    @contextmanager
    def reading(self, limit: asyncio.Timeout) -> Generator[None, None, None]:
        """What is read from a client in here, and is not there yet when nothing more is received, is not waited for.

        Raises:
            GatewayStopping: the end has come.
        """
        if not self._hears:
            limit.reschedule(asyncio.get_running_loop().time())
        self._reading.add(limit)
        try:
            yield
        finally:
            self._reading.discard(limit)
            if not limit.expired():
                limit.reschedule(None)
        if self.ended:
            raise GatewayStopping

    def end_reading(self) -> None:
        """Nothing more is received from any client."""
        self._hears = False
        now = asyncio.get_running_loop().time()
        for limit in self._reading:
            limit.reschedule(now)

    def end(self) -> int:
        """Interrupt what is open, and whatever begins from now on; how many there were."""
        self.ended = True
        now = asyncio.get_running_loop().time()
        for limit in self._open - self._spared:
            limit.reschedule(now)
        return len(self._open)
