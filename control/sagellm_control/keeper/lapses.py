"""Gives back the requests of engines whose worker is gone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from ..store.connect import Store
from ..store.inspect import lapsed_leases
from ..store.steps.engines import retire_engine
from ..store.trouble import log_trouble
from ..wire.states import EngineState
from . import metrics

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
"""A quarter of the two seconds within which a lapse has to be noticed."""


class LapseKeeper:
    """Looks for lapsed leases in one pool. Two keepers that find the same one do its work once: the step decides."""

    def __init__(self, store: Store, pool: str) -> None:
        self.store = store
        self.pool = pool
        self._suspected: set[str] = set()
        self._patient_until = float("-inf")
        """Monotonic; until then nothing is taken from anybody, as the server was away just now."""

    async def run(self) -> None:
        """Keep until cancelled."""
        while True:
            try:
                await self.look_twice()
            except Exception as error:
                log_trouble(log, f"pool {self.pool}: cannot look for lapsed leases", error)
                self._suspected = set()
                # Workers could not renew either. Each gets the time that a command and a connection may take.
                settings = self.store.settings
                self._patient_until = time.monotonic() + settings.command_timeout_s + settings.connect_timeout_s
            await asyncio.sleep(LOOK_EVERY_S)

    async def look_twice(self) -> int:
        """Retire the engines whose leases have lapsed now and had at the last look; how many requests were given back.

        After a stall of the server (its disk, say) every lease looks lapsed for the moment until the renewals that
        were waiting have got through.
        """
        lapsed = set(await lapsed_leases(self.store, self.pool))
        confirmed, self._suspected = lapsed & self._suspected, lapsed
        if time.monotonic() < self._patient_until:
            return 0
        return await self.retire(confirmed)

    async def look(self) -> int:
        """Retire every engine whose lease has lapsed; how many requests were given back."""
        return await self.retire(await lapsed_leases(self.store, self.pool))

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
