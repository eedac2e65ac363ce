"""The whole system on the test's own event loop: no process to start, so a test is ready within milliseconds.

What each process would run is a task here, with connections of its own. The server is real.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from sagellm_control.gateway.process import serve_from
from sagellm_control.gateway.settings import GatewaySettings
from sagellm_control.scheduler.process import Scheduler
from sagellm_control.scheduler.settings import SchedulerSettings
from sagellm_control.store.connect import Store, open_store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.views import EngineView, RequestView, find_request, list_engines
from sagellm_control.wire.engine import EngineRole
from sagellm_control.wire.states import EngineState, RequestState
from sagellm_workers.http.transport import engine_client
from sagellm_workers.serving.served_engine import ServedEngine
from sagellm_workers.settings import WorkerSettings

from ..waiting import wait_until

GATEWAY = GatewaySettings(port=0, request_timeout_s=30, shutdown_s=0.5)
WORKER = WorkerSettings(drain_s=0.5, health_interval_s=0.2)
SCHEDULER = SchedulerSettings(sweep_s=0.5)

IN_TURN: dict[str, Any] = {"scheduler_placement": "round_robin", "gateway_fast_path": False}
"""For ``start_system``: who decides is one scheduler, so that two requests meet two engines."""

START_WITHIN_S = 30.0

Serve = Callable[[asyncio.Future[str], asyncio.Event], Awaitable[None]]


@dataclass
class InProcessSystem:
    """A running system."""

    redis: RedisSettings
    store: Store
    session: aiohttp.ClientSession
    """For plain HTTP requests."""
    engines: list[str]
    gateways: list[str] = field(default_factory=list[str])
    schedulers: list[Scheduler] = field(default_factory=list[Scheduler])

    @property
    def url(self) -> str:
        """The first gateway's."""
        return self.gateways[0]

    def worker(self, url: str, **settings: Any) -> AbstractAsyncContextManager[str]:
        """One more worker, for one engine."""
        chosen = WorkerSettings.model_validate(WORKER.model_dump() | settings)
        return _running(_worker(self.redis, [url], chosen, {}), f"worker of {url}")

    async def engine_views(self) -> list[EngineView]:
        """The engines as they stand in the store."""
        return await list_engines(self.store)

    async def find(self, request_id: str) -> RequestView | None:
        """A request as it stands in the store."""
        return await find_request(self.store, request_id)

    async def until(self, request_id: str, *states: RequestState) -> RequestView:
        """Wait until the request is in one of these states."""

        async def reached() -> RequestView | None:
            view = await self.find(request_id)
            return view if view is not None and view.state in states else None

        return await wait_until(reached, what=f"request {request_id} is {' or '.join(states)}")

    async def until_outcome(self, request_id: str) -> str:
        """Wait until the request has ended; its outcome."""
        return (await self.until(request_id, RequestState.FINISHED)).outcome

    async def until_idle(self) -> None:
        """Wait until no engine holds a place for anybody."""

        async def idle() -> bool:
            return all(view.active == 0 for view in await self.engine_views())

        await wait_until(idle, what="no reservation is left")


@asynccontextmanager
async def in_process_system(
    redis: RedisSettings,
    engines: Sequence[str],
    *,
    gateway: GatewaySettings = GATEWAY,
    worker: WorkerSettings = WORKER,
    scheduler: SchedulerSettings = SCHEDULER,
    gateways: int = 1,
    schedulers: int = 1,
    roles: Mapping[str, str] | None = None,
) -> AsyncGenerator[InProcessSystem, None]:
    """One worker for the engines, and so many schedulers and gateways; given when all of them are ready.

    Args:
        roles: of engines, by URL, where it is not that of the worker's settings.
    """
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(_store(redis))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        system = InProcessSystem(redis, store, session, list(engines))
        if engines:
            await stack.enter_async_context(_running(_worker(redis, engines, worker, roles or {}), "worker"))
            await wait_until(lambda: _all_ready(system), START_WITHIN_S, what="all engines are READY")
        # After the engines, as a scheduler looks for new pools only now and then.
        for number in range(schedulers):
            loop = _scheduler(redis, scheduler, system)
            await stack.enter_async_context(_running(loop, f"scheduler {number}"))
        for number in range(gateways):
            url = await stack.enter_async_context(_running(_gateway(redis, gateway), f"gateway {number}"))
            system.gateways.append(url)
        yield system


@asynccontextmanager
async def _store(redis: RedisSettings) -> AsyncGenerator[Store, None]:
    """As the processes make theirs: on a machine that stands still for a moment they wait for Redis, too."""
    async with open_store(redis, check=False) as store:
        await store.wait()
        yield store


@asynccontextmanager
async def _running(serve: Serve, name: str) -> AsyncGenerator[str, None]:
    """Run it as a task of its own, as it would be a process of its own; gives what it says when it is ready."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    task = asyncio.ensure_future(serve(ready, stop))
    try:
        async with asyncio.timeout(START_WITHIN_S):
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
            raise AssertionError(f"{name} ended while it started")
        yield ready.result()
    finally:
        ready.cancel()
        stop.set()
        try:
            async with asyncio.timeout(START_WITHIN_S):
                await asyncio.wait({task})
        except TimeoutError:
            task.cancel()
            raise AssertionError(f"{name} did not stop") from None
        if not task.cancelled() and (error := task.exception()):
            raise error


def _worker(redis: RedisSettings, urls: Sequence[str], settings: WorkerSettings, roles: Mapping[str, str]) -> Serve:
    async def serve(ready: asyncio.Future[str], stop: asyncio.Event) -> None:
        async with _store(redis) as store, engine_client() as client, asyncio.TaskGroup() as tasks:
            for url in urls:
                role = EngineRole(roles.get(url, settings.role))
                its = settings.model_copy(update={"role": role})
                tasks.create_task(ServedEngine(store, client, url, its).run(stop))
            ready.set_result("")

    return serve


def _scheduler(redis: RedisSettings, settings: SchedulerSettings, system: InProcessSystem) -> Serve:
    async def serve(ready: asyncio.Future[str], stop: asyncio.Event) -> None:
        async with _store(redis) as store:
            scheduler = Scheduler(store, settings)
            system.schedulers.append(scheduler)
            loop = asyncio.create_task(scheduler.run())
            ready.set_result(scheduler.consumer)
            await stop.wait()
            loop.cancel()
            await asyncio.wait({loop})
            if not loop.cancelled():
                loop.result()

    return serve


def _gateway(redis: RedisSettings, settings: GatewaySettings) -> Serve:
    async def serve(ready: asyncio.Future[str], stop: asyncio.Event) -> None:
        async with _store(redis) as store, serve_from(settings, store) as url:
            ready.set_result(url)
            await stop.wait()

    return serve


async def _all_ready(system: InProcessSystem) -> bool:
    ready = {view.url for view in await system.engine_views() if view.state is EngineState.READY}
    return ready >= set(system.engines)
