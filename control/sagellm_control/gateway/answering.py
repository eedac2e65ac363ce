"""Writes an answer to the client: a stream chunk by chunk, or a whole body."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time

from aiohttp import HttpVersion11, web
from redis.exceptions import RedisError

from ..client.answer import Answer
from ..client.errors import UnknownRequest
from ..client.queue_client import QueueClient
from ..wire.event import CHUNK, END, Ending, Event
from ..wire.states import Outcome
from .closing import Closing
from .errors import (
    COME_BACK,
    DEADLINE_EXCEEDED,
    GATEWAY_STOPPING,
    STOPPING_RETRY_S,
    GatewayStopping,
    from_ending,
)
from .event_ids import EventNumbering
from .last_piece import holds_output, is_stream, last_piece
from .metrics import WAIT_ERROR
from .patience import Patience
from .queue_position import queue_position
from .rate_limits import rate_limits

KEEPALIVE_COMMENT = b": waiting\n\n"
POSITION_WITHIN_S = 0.5
"""A comment does not wait for longer to say how many are ahead: it is to keep the connection."""
QUEUE_IS_FULL = 429
EXPIRE_GRACE_S = 2.0
"""After its timeout a request is cancelled in the queue; this long (s) its own ending may take to come back."""

CUT_AFTER_S = EXPIRE_GRACE_S + 3.0
"""So long (s) after its timeout, and as often from then on, it is looked whether a client reads what it was sent."""

_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold the tokens back
}
_BODILESS = (Outcome.COMPLETED, Outcome.REFUSED)


class AnswerWriter:
    """Takes one answer from the queue to one client."""

    def __init__(
        self,
        queue: QueueClient,
        answer: Answer,
        request: web.Request,
        closing: Closing,
        *,
        patience: Patience,
        keepalive_s: float,
        headers: dict[str, str],
        numbering: EventNumbering | None = None,
    ) -> None:
        self._queue = queue
        self._answer = answer
        self._request = request
        self._closing = closing
        self._patience = patience
        self._limits = patience.limits
        """One of which may have ended the answer."""
        self._keepalive_s = keepalive_s
        self._headers = headers
        self._numbering = numbering
        """None: events leave as the engine wrote them."""
        self._pieces = 0
        """Written so far."""
        self.first_byte_at: float | None = None
        """Monotonic time of the first byte of an answer; an error is none."""
        self._expected_at: float | None = None
        """When it was to come, by what the client was told first while it waited."""
        self.outcome = Outcome.FAILED
        self.stopped = False
        """Whether the client was told that the gateway stops, and not how its request ended."""

    async def write_stream(self, *, always: bool = False) -> web.StreamResponse:
        """Pass events on as they come; comments keep the connection open while there are none.

        Args:
            always: an error is an event of the stream even if nothing came before it.
        """
        stream = _Stream(headers=_STREAM_HEADERS | self._headers)  # made while the engine works
        if self._request.version < HttpVersion11:
            stream.force_close()  # nothing else tells such a client that the stream is over
        if math.isinf(self._patience.until):
            return await self._write_stream(stream, always)
        self._look_at_reader(max(0.0, self._patience.until - time.monotonic()) + CUT_AFTER_S)
        try:
            return await self._write_stream(stream, always)
        finally:
            self._reader_look.cancel()

    def _look_at_reader(self, after_s: float, before: tuple[int, float] = (0, math.inf)) -> None:
        """Cut off a client, whose time is over, that has read nothing since ``before``: it could keep its connection,
        and the answer, for as long as it likes."""

        def look() -> None:
            if (transport := self._request.transport) is None:
                return
            pieces, unread = self._pieces, transport.get_write_buffer_size()
            if unread and pieces == before[0] and unread >= before[1]:
                transport.abort()
            else:
                self._look_at_reader(CUT_AFTER_S, (pieces, unread))

        self._reader_look = asyncio.get_running_loop().call_later(after_s, look)

    async def _write_stream(self, stream: web.StreamResponse, always: bool) -> web.StreamResponse:
        try:
            async with self._closing.endable() as limit:
                end = await self._pass_on(stream, limit)
        except GatewayStopping:
            end = self._stop()
        if end is None:
            return stream if stream.prepared else self._nothing_left()
        ending = Ending.decode(end.payload)
        self._ends(ending)
        if not stream.prepared and not is_stream(ending) and not always:
            return self._whole(ending, b"")
        piece = self._numbered(end, last_piece(ending, self._limits))
        if not stream.prepared:
            if always and not piece:
                return self._nothing_left()
            await stream.prepare(self._request)
        # Not endable: nothing can be said behind it.
        await stream.write_eof(piece)
        return stream

    async def write_whole(self) -> web.StreamResponse:
        """Wait for the end and answer with all of it.

        Raises:
            UnknownRequest: it has ended, and what it gave is not kept any more.
        """
        pieces: list[bytes] = []
        try:
            async with self._closing.endable():
                end = await self._collect(pieces)
        except GatewayStopping:
            end = self._stop()
        if end is None:
            raise UnknownRequest(self._answer.request_id)
        ending = Ending.decode(end.payload)
        self._ends(ending)
        return self._whole(ending, b"".join(pieces))

    async def _pass_on(self, stream: web.StreamResponse, limit: asyncio.Timeout) -> Event | None:
        """Write all but the end, which is given back; None: there is nothing more."""
        while True:
            event = await self._next()
            if event is None:
                if self._answer.ended:
                    return None
                piece = await self._comment()
            elif event.type == CHUNK:
                self._answers()
                piece = self._numbered(event, event.payload)
            elif event.type == END:
                return event
            else:
                continue
            if not stream.prepared:
                await stream.prepare(self._request)
            if piece:
                with self._closing.spared(limit):
                    await stream.write(piece)
                self._pieces += 1

    async def _collect(self, pieces: list[bytes]) -> Event | None:
        """Keep all but the end, which is given back; None: there is nothing more."""
        while True:
            event = await self._next()
            if event is None:
                if self._answer.ended:
                    return None
            elif event.type == CHUNK:
                pieces.append(event.payload)
            elif event.type == END:
                return event

    def _stop(self) -> Event:
        """What takes the place of the end when the gateway waits no longer."""
        self.stopped = True
        request_id = self._answer.request_id
        stopping = Ending(
            Outcome.FAILED,
            status=503,
            code=GATEWAY_STOPPING,
            message="This gateway is being stopped before the answer is complete. The request goes on for a while: "
            f"another gateway has it under /v1/requests/{request_id}.",
            retry_after_s=STOPPING_RETRY_S,
        )
        return Event(request_id, 0, 0, END, stopping.encode())

    def _answers(self) -> None:
        if self.first_byte_at is None:
            self.first_byte_at = time.monotonic()
            self._observe_wait(self.first_byte_at)

    def _ends(self, ending: Ending) -> None:
        self.outcome = ending.outcome
        if ending.outcome is Outcome.COMPLETED:
            self._answers()

    async def _next(self) -> Event | None:
        until = self._patience.until
        left = until - time.monotonic()
        if left > 0:
            event = await self._answer.next(min(self._keepalive_s, left))
            if event is not None or time.monotonic() < until:
                return event
        message = "The request's timeout passed."
        if self._patience.own_limits is None:
            with contextlib.suppress(RedisError, OSError):
                # While Redis is away nobody can be told; whoever has the request minds its timeout as well.
                await self._queue.cancel(self._answer.request_id, Outcome.EXPIRED, pool=self._answer.pool)
            event = await self._answer.next(EXPIRE_GRACE_S)
            if event is not None:
                return event
        else:
            message = "The time passed for which this retry was to wait; the request itself goes on."
            self._limits = self._patience.own_limits
        timed_out = Ending(Outcome.EXPIRED, status=504, code=DEADLINE_EXCEEDED, message=message)
        return Event(self._answer.request_id, 0, 0, END, timed_out.encode())

    def _nothing_left(self) -> web.Response:
        # To a browser's EventSource this says "do not come again".
        return web.Response(status=204, headers=self._headers)

    def _numbered(self, event: Event, events: bytes) -> bytes:
        return events if self._numbering is None else self._numbering.write(event, events)

    async def _comment(self) -> bytes:
        """While nothing comes: how many are ahead, and for how long they are expected to take."""
        if self.first_byte_at is not None:
            return KEEPALIVE_COMMENT
        try:
            async with asyncio.timeout(POSITION_WITHIN_S):
                place = await queue_position(self._queue, self._answer.pool, self._answer.request_id)
        except (RedisError, OSError):  # TimeoutError is one of these
            return KEEPALIVE_COMMENT
        if place is None:
            return KEEPALIVE_COMMENT
        if self._expected_at is None and place.wait_s is not None:
            self._expected_at = time.monotonic() + place.wait_s
        return b": waiting" + place.text().encode() + b"\n\n"

    def _observe_wait(self, began_at: float) -> None:
        if self._expected_at is not None:
            came = "later" if began_at > self._expected_at else "sooner"
            WAIT_ERROR.labels(self._answer.pool, came).observe(abs(began_at - self._expected_at))

    def _whole(self, ending: Ending, before: bytes) -> web.Response:
        if ending.outcome in _BODILESS or (ending.body and not holds_output(ending)):
            headers = dict(self._headers)
            if ending.retry_after_s is not None:
                headers["Retry-After"] = str(max(1, round(ending.retry_after_s)))
            headers["Content-Type"] = ending.content_type
            # An error is an error alone, though the engine may have said a part of an answer before it.
            whole = before + ending.body if ending.outcome is Outcome.COMPLETED else ending.body
            return web.Response(status=ending.status, body=whole, headers=headers)
        error = from_ending(ending, self._limits())
        if error.status in COME_BACK and error.retry_after_s is None:
            # Whoever ended it knows nothing of the rate at which the pool drains.
            error.retry_after_s = self._queue.pools.retry_after_s(self._answer.pool)
        response = error.response()
        response.headers.update(self._headers)
        if error.status in COME_BACK:
            # As it is now, and not as it was when the request was taken; 429 says that nothing is left.
            queue, full = self._queue, error.status == QUEUE_IS_FULL
            response.headers.update(rate_limits(queue.pools, queue.limits, self._answer.pool, none_left=full))
        return response


class _Stream(web.StreamResponse):
    # The headers leave with what is written first, as there is something to write: one packet, and one wake-up of the
    # client. (So it is with every other response of aiohttp's.)
    _send_headers_immediately = False
