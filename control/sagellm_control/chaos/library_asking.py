"""Asks through the Python client library, straight at the queue."""

from __future__ import annotations

import time

from redis.exceptions import RedisError

from ..client import NoEngineReady, QueueClient, QueueError, QueueFull, QueueUnavailable, UnknownRequest
from .http_asking import Reading
from .ledger import Asked, Ledger
from .plan import POOL
from .process import Victim

_REFUSALS: dict[type[QueueError], str] = {
    QueueFull: "queue_full",
    NoEngineReady: "no_engine",
    QueueUnavailable: "queue_unavailable",
}
"""As the gateway names them."""


class LibraryAsking:
    """A program that uses ``QueueClient``: it reads on behind the last event that it has seen."""

    def __init__(self, queue: QueueClient, valkey: Victim, ledger: Ledger) -> None:
        self._queue = queue
        self._valkey = valkey
        self._ledger = ledger

    async def submit(self, asked: Asked) -> Reading | None:
        """Put the request into the queue; REFUSED if it was not accepted, BROKEN if that is unknown."""
        question = asked.question
        began = time.monotonic()
        try:
            submission = await self._queue.submit(
                POOL,
                question.body,
                request_id=asked.request_id,
                idempotent=True,
                priority=question.priority,
                stream=question.stream,
                max_tokens=question.tokens,
                continuable=question.stream,
            )
        except QueueUnavailable as error:
            if not self._valkey.disturbed_since(began - 1):
                self._ledger.problems.append(f"{asked.request_id}: {error}")
            return Reading.BROKEN
        except QueueError as error:
            self._ledger.refuse(asked, _REFUSALS.get(type(error), type(error).__name__))
            return Reading.REFUSED
        if asked.accepted and not submission.existed:
            self._ledger.lost.add(asked.request_id)
        asked.accepted = True
        return None

    async def read_on(self, asked: Asked, *, leave_after: int | None = None) -> Reading:
        """Read behind the last event; leave when that many more tokens have come."""
        transcript = asked.transcript
        enough = None if leave_after is None else len(transcript.pieces) + leave_after
        events = self._queue.stream(asked.request_id, after=transcript.position)
        try:
            async for event in events:
                transcript.take_event(event)
                if enough is not None and len(transcript.pieces) >= enough and not transcript.ended:
                    return Reading.LEFT
        except UnknownRequest:
            self._ledger.lost.add(asked.request_id)
            return Reading.ENDED
        except (QueueError, RedisError, OSError):
            return Reading.BROKEN
        finally:
            await events.aclose()
        return Reading.ENDED if transcript.ended else Reading.BROKEN

    async def cancel(self, asked: Asked) -> None:
        """Cancel it, unless Redis is away."""
        try:
            await self._queue.cancel(asked.request_id)
        except (QueueError, RedisError, OSError):
            return
