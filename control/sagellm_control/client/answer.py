"""The answer to one request, as its events arrive; what did not arrive is read from the output log."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from redis.exceptions import RedisError

from ..store.connect import Store
from ..store.inspect import read_output
from ..store.trouble import Trouble
from ..wire.event import END, Ending, Event, Position, is_unbroken
from ..wire.states import Outcome, RequestState
from .errors import QueueUnavailable
from .resubmission import AwaitedReturn, Resubmission, StillGone

log = logging.getLogger(__name__)

_FINISHED = RequestState.FINISHED.encode()
_ON_AN_ENGINE = (RequestState.ASSIGNED.encode(), RequestState.RUNNING.encode())


def _lost(message: str) -> bytes:
    return Ending(Outcome.FAILED, status=503, code="request_lost", message=message).encode()


LOST = _lost("The request is gone from the queue; send it again.")
ROLLED_BACK = _lost("Redis has lost a part of the answer, as a failover or a crash may; send the request again.")

MOST_EVENTS = 256
"""That are kept of an answer whose reader does not keep up, or is not there yet; what comes beyond is read from the
output log when there is room for it."""

LAST_LOOK_S = 0.5
"""How long a look at the log may take that is only to make sure: whoever waits for an event must not hang with a server
that hangs, as it has others to tell that it still waits."""

_trouble = Trouble(log, "output logs cannot be read")
"""Of all answers: however many wait while Redis is away, that is one thing to say."""


class _Hangs(Exception):
    """The log could not be read in time."""


class Answer:
    """The events of one request behind a position, each once and in order."""

    def __init__(self, store: Store, pool: str, request_id: str, *, after: tuple[int, int] = (0, 0)) -> None:
        self.pool = pool
        self.request_id = request_id
        self._store = store
        self._events: deque[Event] = deque()
        self._start = self._last = after
        self._last_payload: bytes | None = None
        """Of the event at that position; None: it was not read here."""
        self._gap = False
        self._doubted = False
        """Whether the log has to tell of each event whether it goes on from the last."""
        self._deaf = False
        """Whether its client has been closed."""
        self._waiter: asyncio.Future[None] | None = None
        """Of whoever waits for an event."""
        self._handed_out = after != (0, 0)
        """Whether the reader has had an event, here or before."""
        self.lost_record: Resubmission | AwaitedReturn | None = None
        """What to do if the record is gone; None: nothing."""
        self.accepted = True
        """Whether its request is known to be in the queue; until then nobody but its submitter may read it."""
        self.read = False
        """Whether somebody reads it."""
        self.ended = False
        """Whether the end has been handed out, or lies before the position asked for."""

    def push(self, event: Event) -> None:
        """An event has been published."""
        attempt, sequence = self._last
        if event.position <= self._last:
            if event.sequence == 1:
                self.check_log()  # it has begun before: a failover may have taken that back
            return
        # Only the log tells whether the attempt before has said more than what came here.
        begins = self._last == (0, 0) and event.position == (1, 1)
        if len(self._events) >= MOST_EVENTS:
            self._gap = True
            return
        # While the log is to be looked at, it has what comes meanwhile, and tells whether it goes on from the last.
        if not (self._gap or self._doubted) and (begins or event.position == (attempt, sequence + 1)):
            self._take(event)
        else:
            self._gap = True
        self._wake()

    def _take(self, event: Event) -> None:
        self._last, self._last_payload = event.position, event.payload
        self._events.append(event)

    def check_log(self) -> None:
        """Something may have been missed."""
        self._gap = True
        self._wake()

    def begin_anew(self) -> None:
        """Forget what has come, and read the log from its beginning."""
        self._events.clear()
        self._last, self._last_payload = self._start, None
        self.check_log()

    def deafen(self) -> None:
        """Its client is closed: nothing comes any more."""
        self._deaf = True
        self._wake()

    async def next(self, timeout_s: float) -> Event | None:
        """The next event; None: nothing has happened for so long, or there is nothing behind this position.

        Raises:
            QueueUnavailable: the client was closed, and all that came before has been handed out.
        """
        if not self._events:
            await self._wait(timeout_s)
        if not self._events:
            return None
        event = self._events.popleft()
        self._handed_out = True
        self.ended = event.type == END
        return event

    async def _wait(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        try:
            while not self._events and not self.ended:
                if self._deaf:
                    raise QueueUnavailable("this client of it has been closed")
                if not self._gap:
                    await self._wait_until(until)
                elif loop.time() < until:
                    await self._repair(until)
                else:
                    raise TimeoutError
        except TimeoutError:
            # Nothing came: make sure that there was nothing.
            await self._repair(loop.time() + LAST_LOOK_S)

    async def _wait_until(self, until: float) -> None:
        """Wait for a push. (``asyncio.timeout`` takes several times as long, as it can end whatever is waited for.)"""
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = loop.call_at(until, self._wake)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        if not self._events and not self._gap and not self._deaf and loop.time() >= until:
            raise TimeoutError

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _repair(self, until: float) -> None:
        self._gap = False
        heard, payload = self._last, self._last_payload
        try:
            state, attempt, events = await self._read_log(heard, until)
            self._gap = self._gap or len(events) == MOST_EVENTS  # then there may be more
            if heard[1] and not self._goes_on(heard, payload, state, attempt, events):
                self._give_up_history()
                return
            await self._take_over(state, events, until)
            _trouble.over()
        except (_Hangs, StillGone):
            self._gap = True
        except (RedisError, OSError) as error:
            # Redis is away. The inbox asks for another look when it is subscribed again.
            _trouble.tell(error)

    async def _read_log(self, heard: Position, until: float) -> tuple[bytes | None, bytes | None, list[Event]]:
        """The record's state and attempt, and the events from the one that was heard last on."""
        attempt, sequence = heard
        record = self._store.keys.pool(self.pool).record(self.request_id)
        try:
            async with asyncio.timeout_at(until):
                # The state before the log: an end that is written in between is then found in the log.
                known = await self._store.commands.hmget(record, "state", "attempt")
                after = (attempt, max(0, sequence - 1))
                events = await read_output(self._store, self.pool, self.request_id, after=after, count=MOST_EVENTS)
                return *known, events
        except TimeoutError:
            raise _Hangs from None

    def _goes_on(
        self, heard: Position, payload: bytes | None, state: bytes | None, attempt: bytes | None, events: list[Event]
    ) -> bool:
        """Whether the log goes on from what was heard last, which is taken out of it; as far as can be told now."""
        self._doubted = False
        if events:
            if events[0].position == heard and payload in (None, events[0].payload):
                del events[0]
                return True
            # A failover has lost it, and its worker speaks on. An attempt that is made anew has it, in other words.
            return events[0].position == (heard[0], heard[1] + 1)
        if state is None:
            return True  # see _without_record
        if state == _FINISHED:
            return payload is None
        # Lost as well, and nothing came since: its next event tells whether its worker speaks on or it is made anew.
        self._doubted = state in _ON_AN_ENGINE and attempt == b"%d" % heard[0]
        return self._doubted

    async def _take_over(self, state: bytes | None, events: list[Event], until: float) -> None:
        if not events and state is None:
            events = await self._without_record(until)
        elif not events and state == _FINISHED:
            self.ended = True
        for event in events:
            if event.position > self._last:
                if not is_unbroken([event], self._last):
                    self._end()
                    break
                self._take(event)
        if state is not None and self.lost_record is not None:
            self.lost_record.seen()

    def _give_up_history(self) -> None:
        # The record was set back, and what was heard is not what it has: only who has handed out nothing begins anew.
        log.warning("request %s: its output log is not what it was", self.request_id)
        if self._handed_out:
            self._events.clear()
            self._end()
        else:
            self.begin_anew()

    def _end(self) -> None:
        # Without a number of its own: the worker may give that to another event, and whoever comes back names the last.
        self._events.append(Event(self.request_id, self._last[0], 0, END, ROLLED_BACK))

    async def _without_record(self, until: float) -> list[Event]:
        if self.lost_record is not None and self.lost_record.possible(handed_out=self._handed_out):
            attempt = await self.lost_record.restore(until)
            if attempt is not None:
                # Unread events of the attempts before are dropped, and what those still send is ignored.
                self._events.clear()
                self._start = self._last = (attempt, 0) if attempt else self._start
                self._last_payload = None
                return []
        attempt, sequence = self._last
        return [Event(self.request_id, attempt, sequence + 1, END, LOST)]
