"""What is done about an accepted request whose record is gone: a failover, or a crash of Redis, took it along.

Whoever holds the request submits it again; whoever only listens to it waits for that.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from ..store.connect import Store
from ..store.steps.accept import AcceptLimits, Exists, accept
from ..store.steps.attach import attach
from ..wire.attempts import ATTEMPTS_APART
from ..wire.request import NewRequest

log = logging.getLogger(__name__)

RETURNS_WITHIN_S = 10.0
"""Gateways look for what they hold each few seconds: a record that is gone for longer is held by nobody."""
LOOK_EVERY_S = 0.2


class StillGone(Exception):
    """The record is not there yet, and may come back."""


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

    async def restore(self, until: float) -> int | None:
        """Submit it again, under its id; the number behind which its attempts are counted. Nothing is broken off at
        ``until``: the next look would take what was submitted for something else."""
        now = asyncio.get_running_loop().time()
        self._times += 1
        attempt = self._times * ATTEMPTS_APART
        again = replace(self._request, attempt=attempt, timeout_ms=self._left_ms(now))
        log.warning("request %s: its record was lost; it is submitted again", again.id)
        # It had been accepted, so it is not refused now: not because others wait, nor because memory is full.
        limits = AcceptLimits(max_waiting=0, without_engine=True, keep_result_ms=self._limits.keep_result_ms)
        (result,) = await accept(self._store, again.pool, [again], limits, owed=True)
        if isinstance(result, Exists):
            # Whoever holds it too did the same, a moment before.
            await attach(self._store, again.pool, again.id, again.inbox)
        self.seen()
        return attempt

    def _left_ms(self, now: float) -> int:
        """What is left of the request's timeout. 0: it has none; below: it has passed."""
        if not self._request.timeout_ms:
            return 0
        left = self._request.timeout_ms - round((now - self._submitted_at) * 1000)
        return left if left > 0 else -1


class AwaitedReturn:
    """For a listener: somebody else may hold the request."""

    def __init__(self, store: Store, pool: str, request_id: str, inbox: str) -> None:
        self._store = store
        self._where = (pool, request_id, inbox)
        self._gone_since: float | None = None

    def seen(self) -> None:
        """The record is there."""
        self._gone_since = None

    def possible(self, *, handed_out: bool) -> bool:
        """Whether this listener can go on with another run of the request: only from its start."""
        return not handed_out

    async def restore(self, until: float) -> int | None:
        """Wait for the record to come back, and listen to it again; None: nobody has brought it back.

        Raises:
            StillGone: not by ``until`` (time of the event loop).
        """
        clock = asyncio.get_running_loop().time
        pool, request_id, inbox = self._where
        if self._gone_since is None:
            self._gone_since = clock()
        while not await self._store.commands.exists(self._store.keys.pool(pool).record(request_id)):
            if clock() >= self._gone_since + RETURNS_WITHIN_S:
                return None
            if clock() >= until:
                raise StillGone
            await asyncio.sleep(min(LOOK_EVERY_S, max(0.0, until - clock())))
        await attach(self._store, pool, request_id, inbox)
        self.seen()
        return 0
