"""Keeps an engine's lease, and learns from each renewal what has been cancelled, lost or is to be drained."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from redis.exceptions import RedisError

from sagellm_control.stopping import is_set_within
from sagellm_control.store.connect import Store
from sagellm_control.store.steps.engines import drained_note, renew_engine
from sagellm_control.store.trouble import Trouble
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.states import EngineState

from ..attempts.attempt import Attempt
from ..observation.pace_keeper import PaceKeeper

log = logging.getLogger(__name__)

RENEWALS_A_LEASE = 3
"""Two renewals in a row may fail before the lease lapses."""


class LeaseLost(Exception):
    """Somebody else may hold the engine now: everything on it has to stop."""


class Lease:
    """The lease of one engine under one worker session. A ``StandIn`` renews it while this event loop is blocked."""

    def __init__(
        self,
        store: Store,
        row: EngineRow,
        *,
        lease_s: float,
        attempts: Callable[[], list[Attempt]],
        pace: PaceKeeper | None = None,
    ) -> None:
        self._store = store
        self._attempts = attempts
        self._pace = pace
        self._now = asyncio.Event()
        self._facts_changed = False
        self._reported = asyncio.Event()
        self._reported.set()
        self.lease_s = lease_s
        self.renewed_at = time.monotonic()
        """When the last renewal that got through was asked for (monotonic). The stand-in reads and writes it too."""
        self.row = row
        self._trouble = Trouble(log, f"engine {row.engine_id}: cannot renew the lease")
        self._lapse = Trouble(log, f"engine {row.engine_id}: the lease may have lapsed")
        self.drained = False
        """Somebody has asked for the engine to be drained, as the last renewal told."""

    @property
    def ready(self) -> bool:
        """Whether schedulers may give the engine requests."""
        return self.row.state is EngineState.READY and not self.drained

    @property
    def held(self) -> int:
        """Attempts that the worker has on the engine."""
        return len(self._attempts())

    def report(
        self, state: EngineState, reason: str = "", *, limit: int | None = None, last_resort: bool = False
    ) -> None:
        """The engine's state, or how many requests it may be given, has changed; it is written at once."""
        row = replace(self.row, state=state, reason=reason, limit=limit, last_resort=last_resort)
        self._change(row)

    def take_over(self, row: EngineRow) -> None:
        """What the engine is has changed, say its slots or its adapters; it is written at once."""
        now = self.row
        kept = replace(row, worker=now.worker, state=now.state, reason=now.reason, limit=now.limit)
        row = replace(kept, last_resort=now.last_resort, speed=now.speed, pace_tps=now.pace_tps)
        self._facts_changed |= row != now
        self._change(row)

    def _change(self, row: EngineRow) -> None:
        if row != self.row:
            self.row = row
            self._reported.clear()
            self._now.set()

    async def reported(self) -> None:
        """Wait until what was reported last is in Redis."""
        await self._reported.wait()

    def renew_soon(self) -> None:
        """Renew without waiting for the next turn."""
        self._now.set()

    async def run(self) -> None:
        """Renew until cancelled.

        Raises:
            LeaseLost: the lease is another's, or has lapsed while Redis could not be reached.
        """
        while True:
            await is_set_within(self._now, self.lease_s / RENEWALS_A_LEASE)
            self._now.clear()
            await self.renew()

    async def renew(self) -> None:
        """Renew once; an unreachable Redis is waited for as long as the lease is valid."""
        if self._pace is not None:
            learned = self._pace.learn(self.row)
            self.row = replace(self.row, speed=learned.speed, pace_tps=learned.pace_tps)
        attempts, row, facts = self._attempts(), self.row, self._facts_changed
        keys, lease_ms = [attempt.key for attempt in attempts], int(self.lease_s * 1000)
        began = time.monotonic()
        try:
            renewal = await renew_engine(self._store, row, keys, lease_ms=lease_ms, facts=facts)
        except (RedisError, OSError) as error:
            self._trouble.tell(error)
            if time.monotonic() > self.renewed_at + self.lease_s:
                # It is still ours if nobody took it: the next renewal that gets through tells.
                self._lapse.tell(error)
            self._now.set()
            await asyncio.sleep(min(0.2, self.lease_s / 10))
            return
        if renewal is None:
            raise LeaseLost(row.engine_id)
        self._trouble.over()
        self._lapse.over()
        self.renewed_at = began
        if renewal.draining != self.drained:
            self.drained = renewal.draining
            self._tell_drained(row)
        if row is self.row:
            self._facts_changed = False
            self._reported.set()
        for attempt, state in zip(attempts, renewal.attempts, strict=True):
            if state != "running":
                attempt.stop(state)
        if self._pace is not None:
            await self._pace.follow()

    def _tell_drained(self, row: EngineRow) -> None:
        # Also after a restart: that it was drained before may be long forgotten.
        if self.drained:
            note = drained_note(row.engine_id)
            log.warning("engine %s gets no requests for %s: %s", row.engine_id, row.pool, note)
        else:
            log.warning("engine %s gets requests for %s again: it is not drained any more", row.engine_id, row.pool)
