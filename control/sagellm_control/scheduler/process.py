"""A scheduler process: one loop for each pool, and the keeper that gives back what lost workers held."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket

from prometheus_client import start_http_server
from redis.exceptions import RedisError

from ..keeper.lapses import LapseKeeper
from ..stopping import run_until, stop_requested
from ..store.connect import Store, open_store
from ..store.inspect import list_pools
from ..store.settings import RedisSettings
from .pool_scheduler import PoolScheduler
from .settings import SchedulerSettings

log = logging.getLogger(__name__)

RETRY_S = 0.5
"""Pause after the server could not be reached."""


async def run(settings: SchedulerSettings, redis: RedisSettings) -> None:
    """Schedule every pool until SIGTERM or SIGINT."""
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host)
    async with open_store(redis) as store, stop_requested() as stop:
        await run_until(stop, Scheduler(store, settings).run())


class Scheduler:
    """Finds the pools and runs a ``PoolScheduler`` and a ``LapseKeeper`` for each."""

    def __init__(self, store: Store, settings: SchedulerSettings) -> None:
        self.store = store
        self.settings = settings
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"

    async def run(self) -> None:
        """Schedule until cancelled."""
        known: set[str] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    for pool in await list_pools(self.store):
                        if pool not in known:
                            known.add(pool)
                            log.info("scheduling pool %s", pool)
                            tasks.create_task(self._schedule(pool), name=f"schedule {pool}")
                            tasks.create_task(LapseKeeper(self.store, pool).run(), name=f"keep {pool}")
                except (RedisError, OSError) as error:
                    log.warning("cannot list the pools: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _schedule(self, pool: str) -> None:
        while True:
            scheduler = PoolScheduler(self.store, pool, self.consumer, self.settings)
            try:
                await scheduler.run()
            except (RedisError, OSError) as error:
                log.warning("pool %s: %s; trying again", pool, error)
            await asyncio.sleep(RETRY_S)
