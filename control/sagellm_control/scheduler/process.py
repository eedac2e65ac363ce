"""A scheduler process: one loop for each pool, and the keeper that gives back what lost workers held."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket

from prometheus_client import start_http_server
from redis.exceptions import RedisError

from ..keeper import metrics as keeper_metrics
from ..keeper.departures import DepartureKeeper
from ..keeper.lapses import LapseKeeper
from ..keeper.orphans import OrphanKeeper
from ..keeper.reconcile import Reconciler
from ..keeper.unknown_pools import UnknownPoolKeeper
from ..stopping import run_until, stop_requested
from ..store.backoff import Backoff
from ..store.connect import Store, open_store
from ..store.inspect import list_pools
from ..store.settings import RedisSettings
from ..store.trouble import Trouble
from . import metrics
from .pool_scheduler import PoolScheduler
from .settings import SchedulerSettings

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
"""How soon a new pool is noticed."""
RETRY_S = 0.5
"""Pause after the server could not be reached."""


async def run(settings: SchedulerSettings, redis: RedisSettings) -> None:
    """Schedule every pool until SIGTERM or SIGINT; wait for Redis first, unless told not to (``redis.wait``)."""
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host)
    async with stop_requested() as stop, open_store(redis, check=not redis.wait) as store:
        await run_until(stop, store.wait())
        await run_until(stop, Scheduler(store, settings).run())


class Scheduler:
    """Finds the pools and runs a ``PoolScheduler`` and the keepers for each."""

    def __init__(self, store: Store, settings: SchedulerSettings) -> None:
        self.store = store
        self.settings = settings
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"

    async def run(self) -> None:
        """Schedule until cancelled; pools come and go meanwhile."""
        running: dict[str, asyncio.Task[None]] = {}
        trouble = Trouble(log, "cannot list the pools")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(UnknownPoolKeeper(self.store).run(), name="unknown pools")
            while True:
                try:
                    pools = await list_pools(self.store)
                except Exception as error:
                    trouble.tell(error)
                    pools = list(running)
                else:
                    trouble.over()
                for pool in running.keys() - pools:
                    running.pop(pool).cancel()
                for pool in pools:
                    if pool not in running:
                        log.info("scheduling pool %s", pool)
                        running[pool] = tasks.create_task(self._serve(pool), name=f"serve {pool}")
                await asyncio.sleep(LOOK_EVERY_S)

    async def _serve(self, pool: str) -> None:
        metrics.begin(pool)
        keeper_metrics.begin(pool)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._schedule(pool), name=f"schedule {pool}")
            tasks.create_task(LapseKeeper(self.store, pool).run(), name=f"lapses {pool}")
            tasks.create_task(DepartureKeeper(self.store, pool).run(), name=f"departures {pool}")
            tasks.create_task(Reconciler(self.store, pool).run(), name=f"reconcile {pool}")
            tasks.create_task(OrphanKeeper(self.store, pool).run(), name=f"orphans {pool}")

    async def _schedule(self, pool: str) -> None:
        backoff, trouble = Backoff(longest_s=RETRY_S), Trouble(log, f"pool {pool} is not scheduled")
        while True:
            scheduler = PoolScheduler(self.store, pool, self.consumer, self.settings)
            try:
                await scheduler.run()
            except Exception as error:
                # One pool's trouble is not the others'.
                trouble.tell(error)
            await backoff.pause()
            with contextlib.suppress(RedisError, OSError):
                if pool not in await list_pools(self.store):
                    return  # it was forgotten: to prepare it again would leave its streams behind
                trouble.over()
