"""Gives back the requests of engines whose worker is gone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from ..store.connect import Store
from ..store.inspect import Leases, read_leases
from ..store.steps.engines import retire_engine
from ..store.trouble import Trouble
from ..wire.states import EngineState
from . import metrics

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
"""A quarter of the two seconds within which a lapse has to be noticed."""
STEP_S = 1.0
"""A server's clock that has gone so much further than ours was set, or is another server's."""


class LapseKeeper:
    """Looks for lapsed leases in one pool. Two keepers that find the same one do its work once: the step decides."""

    def __init__(self, store: Store, pool: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """``monotonic``: a clock in seconds."""
        self.store = store
        self.pool = pool
        self._monotonic = monotonic
        self._suspected: set[str] = set()
        self._patient_until = float("-inf")
        """Monotonic; until then nothing is taken from anybody: the server was away just now, or its clock was set."""
        self._seen: tuple[Leases, float] | None = None
        """What the last look has found, and when it began (monotonic)."""

    async def run(self) -> None:
        """Keep until cancelled."""
        trouble = Trouble(log, f"pool {self.pool}: cannot look for lapsed leases")
        while True:
            try:
                await self.look_twice()
            except Exception as error:
                trouble.tell(error)
                self._suspected = set()
                # Workers could not renew either. Each gets the time that a command and a connection may take.
                settings = self.store.settings
                self._be_patient(settings.command_timeout_s + settings.connect_timeout_s)
            else:
                trouble.over()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look_twice(self) -> int:
        """Retire the engines whose leases have lapsed now and had at the last look; how many requests were given back.

        After a stall of the server (its disk, say) every lease looks lapsed for the moment until the renewals that
        were waiting have got through.
        """
        began = self._monotonic()
        leases = await read_leases(self.store, self.pool)
        self._look_for_step(leases, began)
        lapsed = set(leases.lapsed)
        confirmed, self._suspected = lapsed & self._suspected, lapsed
        if self._monotonic() < self._patient_until:
            return 0
        return await self.retire(confirmed)

    def _look_for_step(self, leases: Leases, began: float) -> None:
        # A clock that is set forward takes as much from every lease. Who lives renews while his would still run.
        if self._seen is not None:
            last, since = self._seen
            step_s = (leases.now_ms - last.now_ms) / 1000 - (self._monotonic() - since)
            if step_s > STEP_S:
                self._be_patient(min(step_s, last.longest_ms / 1000))
        self._seen = leases, began

    def _be_patient(self, for_s: float) -> None:
        self._patient_until = max(self._patient_until, self._monotonic() + for_s)

    async def retire(self, engines: Iterable[str]) -> int:
        """Retire these engines, as far as their leases have lapsed; how many requests were given back."""
        given_back = 0
        for engine in engines:
            retired = await retire_engine(
                self.store, self.pool, engine, "", EngineState.ERROR, "its worker's lease lapsed"
            )
            if retired is None:
                continue
            count = retired.given_back
            metrics.LAPSED.labels(self.pool).inc(int(retired.had_holder))
            metrics.REQUEUED.labels(self.pool).inc(count)
            log.warning("pool %s: engine %r lost its worker, %d requests given back", self.pool, engine, count)
            given_back += count
        return given_back
