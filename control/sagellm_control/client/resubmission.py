"""What is done about an accepted request whose record is gone: a failover, or a crash of Redis, took it along."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from ..store.connect import Store
from ..store.steps.accept import AcceptLimits, accept
from ..wire.request import NewRequest

log = logging.getLogger(__name__)

ATTEMPTS_APART = 1000
"""A request that is submitted again counts its attempts from here on, and from twice here the next time: an attempt
of before, which may still run somewhere, is none of the current ones and is refused."""
WITHOUT_LIMIT = 2**53
"""It had been accepted, so it is not refused now because others wait."""


class Resubmission:
    """Holds a request that this process submitted, for as long as its answer is open."""

    def __init__(self, store: Store, request: NewRequest, limits: AcceptLimits) -> None:
        self._store = store
        self._request = request
        self._limits = limits
        self._times = 0
        loop = asyncio.get_running_loop()
        self._submitted_at = loop.time()
        self._alive_at = loop.time()

    def seen(self) -> None:
        """The record is there."""
        self._alive_at = asyncio.get_running_loop().time()

    def possible(self, *, handed_out: bool) -> bool:
        """Whether the request may run again from its start.

        Args:
            handed_out: the client has part of the answer. Another run would answer in other words.
        """
        now = asyncio.get_running_loop().time()
        # A record that was seen so lately cannot have ended and expired: it was lost.
        lost = now - self._alive_at < self._limits.keep_result_ms / 1000
        return lost and not handed_out and self._left_ms(now) >= 0

    async def submit(self) -> int:
        """Submit it again, under its id; the number behind which its attempts are counted."""
        now = asyncio.get_running_loop().time()
        self._times += 1
        attempt = self._times * ATTEMPTS_APART
        again = replace(self._request, attempt=attempt, timeout_ms=self._left_ms(now))
        log.warning("request %s: its record was lost; it is submitted again", again.id)
        # Whoever submitted it meanwhile did the same: then it exists.
        limits = replace(self._limits, max_waiting=WITHOUT_LIMIT, without_engine=True)
        await accept(self._store, again.pool, [again], limits)
        self.seen()
        return attempt

    def _left_ms(self, now: float) -> int:
        """Of the request's timeout; 0: it has none, below: it is over."""
        if not self._request.timeout_ms:
            return 0
        left = self._request.timeout_ms - round((now - self._submitted_at) * 1000)
        return left if left > 0 else -1
