"""Forgets what went long ago: schedulers, engines, and pools whose last engine has been forgotten."""

from __future__ import annotations

import asyncio
import logging

from ..store.connect import Store
from ..store.inspect import engine_rows
from ..store.steps.engines import remove_engine
from ..store.steps.pools import forget_pool, withdraw_removed
from ..store.steps.take import gone_consumers, leave
from ..store.trouble import Trouble
from ..wire.keys import read_name

log = logging.getLogger(__name__)

CONSUMER_KEPT_MS = 3600 * 1000
"""A scheduler reads at least every few seconds, so one that was silent for an hour is gone."""
LOOK_EVERY_S = 60.0
"""What is forgotten here went a day ago; nobody waits for it."""


class DepartureKeeper:
    """Looks after one pool. An engine's row expires by itself; what refers to it is removed here."""

    def __init__(self, store: Store, pool: str) -> None:
        self.store = store
        self.pool = pool

    async def run(self) -> None:
        """Keep until cancelled."""
        trouble = Trouble(log, f"pool {self.pool}: cannot look for departed engines")
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            with trouble.told():
                await self.look()

    async def look(self) -> None:
        """Forget schedulers long gone, every engine whose row has expired, the names that went with such engines, and
        the pool if that was its last."""
        keys = self.store.keys.pool(self.pool)
        for consumer in await gone_consumers(self.store, keys, idle_ms=CONSUMER_KEPT_MS):
            await leave(self.store, keys, consumer)
        members = await self.store.commands.smembers(keys.engines)
        engines = [read_name(name) for name in members]
        known = {row.engine_id for row in await engine_rows(self.store, self.pool, engines)}
        for engine in set(engines) - known:
            if await remove_engine(self.store, self.pool, engine) == "forgotten":
                log.info("pool %s: engine %r is forgotten", self.pool, engine)
        # Also those that a removal could not withdraw, or had no time to.
        await withdraw_removed(self.store, self.pool)
        if not known and await forget_pool(self.store, self.pool):
            log.info("pool %s is forgotten: it has neither engines nor requests", self.pool)
