"""The answer to one request, as its events arrive; what did not arrive is read from the output log."""

from __future__ import annotations

import asyncio
from collections import deque

from ..store.connect import Store
from ..store.inspect import read_output
from ..wire.event import END, Ending, Event
from ..wire.states import Outcome

LOST = Ending(
    Outcome.FAILED,
    status=503,
    code="request_lost",
    message="The request is gone from the queue; send it again.",
).encode()


class Answer:
    """The events of one request behind a position, each once and in order."""

    def __init__(self, store: Store, pool: str, request_id: str, *, after: tuple[int, int] = (0, 0)) -> None:
        self.pool = pool
        self.request_id = request_id
        self._store = store
        self._events: deque[Event] = deque()
        self._last = after
        self._gap = False
        self._wake = asyncio.Event()
        self.ended = False
        """Whether the end has been handed out."""

    def push(self, event: Event) -> None:
        """An event has been published."""
        attempt, sequence = self._last
        if event.position <= self._last:
            return
        if event.sequence == (sequence + 1 if event.attempt == attempt else 1):
            self._last = event.position
            self._events.append(event)
        else:
            self._gap = True
        self._wake.set()

    def check_log(self) -> None:
        """Something may have been missed."""
        self._gap = True
        self._wake.set()

    async def next(self, timeout_s: float) -> Event | None:
        """The next event; None: nothing has happened for so long.

        After the end there is no further event.
        """
        if not self._events:
            await self._wait(timeout_s)
        if not self._events:
            return None
        event = self._events.popleft()
        self.ended = event.type == END
        return event

    async def _wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not self._events:
                    if self._gap:
                        await self._repair()
                        continue
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            # Nothing came: make sure that there was nothing.
            await self._repair()

    async def _repair(self) -> None:
        self._gap = False
        events = await read_output(self._store, self.pool, self.request_id, after=self._last)
        if not events:
            record = self._store.keys.pool(self.pool).record(self.request_id)
            if not await self._store.commands.exists(record):
                attempt, sequence = self._last
                events = [Event(self.request_id, attempt, sequence + 1, END, LOST)]
        for event in events:
            if event.position > self._last:
                self._last = event.position
                self._events.append(event)
