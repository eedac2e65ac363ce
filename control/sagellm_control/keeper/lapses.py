"""Gives back the requests of engines whose worker is gone."""

from __future__ import annotations

import asyncio
import logging

from redis.exceptions import RedisError

from ..store.connect import Store
from ..store.inspect import lapsed_leases
from ..store.steps.engines import retire_engine
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

    async def run(self) -> None:
        """Keep until cancelled."""
        while True:
            try:
                await self.look()
            except (RedisError, OSError) as error:
                log.warning("pool %s: cannot look for lapsed leases: %s", self.pool, error)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> int:
        """Retire every engine whose lease has lapsed; how many requests were given back."""
        given_back = 0
        for engine in await lapsed_leases(self.store, self.pool):
            retired = await retire_engine(
                self.store, self.pool, engine, "", EngineState.ERROR, "its worker's lease lapsed"
            )
            if retired is None:
                continue
            count = retired.given_back
            metrics.LAPSED.labels(self.pool).inc(int(retired.had_holder))
            metrics.REQUEUED.labels(self.pool).inc(count)
            log.warning("pool %s: engine %s lost its worker, %d requests given back", self.pool, engine, count)
            given_back += count
        return given_back
