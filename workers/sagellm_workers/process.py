"""A worker process: serves each of its engines as what it is."""

from __future__ import annotations

import asyncio

from prometheus_client import start_http_server

from sagellm_control.stopping import run_until, stop_requested
from sagellm_control.store.connect import open_store
from sagellm_control.store.settings import RedisSettings

from .http.transport import engine_client
from .serving.adoption import Adopter
from .serving.served_engine import ServedEngine
from .settings import WorkerSettings


class WorkerMisconfigured(Exception):
    """The settings cannot work; the text says what to do."""


async def run(settings: WorkerSettings, redis: RedisSettings) -> None:
    """Serve the engines until SIGTERM or SIGINT, then drain them."""
    if not settings.engine and not settings.adopt:
        raise WorkerMisconfigured("no engine to serve: give --engine URL, once for each engine, or --adopt")
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host)
    async with (
        stop_requested() as stop,
        open_store(redis, check=not redis.wait) as store,
        engine_client(trust_env=settings.trust_env) as client,
        asyncio.TaskGroup() as tasks,
    ):
        await run_until(stop, store.wait())
        for url in dict.fromkeys(settings.engine):
            tasks.create_task(ServedEngine(store, client, url, settings).run(stop), name=f"serve {url}")
        if settings.adopt:
            tasks.create_task(Adopter(store, client, settings).run(stop), name="adopt")
