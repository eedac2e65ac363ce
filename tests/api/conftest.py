"""Managers in both modes, in front of simulated engines and of engines that answer as a test tells them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import pytest
from sagellm_protocol import Request, Response

from sagellm_control import ControlPlaneManager, EngineInfo, EngineState, RequestStatus, SchedulingDecision
from sagellm_control.manager import shared_wishes
from sagellm_control.scheduler.process import Scheduler
from sagellm_control.scheduler.settings import SchedulerSettings
from sagellm_control.store.connect import open_store
from sagellm_control.store.settings import RedisSettings
from sagellm_workers.http.transport import engine_client
from sagellm_workers.serving.adoption import Adopter
from sagellm_workers.settings import WorkerSettings

from ..flow.conftest import SimulatedEngine, StartEcho, StartEngine, start_echo, start_engine
from ..flow.echo_engine import EchoEngine
from ..waiting import wait_until

__all__ = ["StartEcho", "StartEngine", "start_echo", "start_engine"]

HURRY = {"SAGELLM_CONTROL_MANAGER_HEALTH_CHECK_INTERVAL_S": "0.1"}


TELLS_ALL = "prompt_tokens" in Response.model_fields
"""With version 0.4 of the protocol responses do not tell of prompt tokens, and requests have no sampling parameters."""


def prompt_tokens(answer: Any) -> int | None:
    """Of a response or an event; None where the protocol has no field for it."""
    return getattr(answer, "prompt_tokens", None)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a scheduler may take its time to hear of an engine, and to say that a request has to wait."""
    monkeypatch.setattr(shared_wishes, "LONGEST_LOOK_S", 30.0)
    monkeypatch.setattr(shared_wishes, "NEW_ENGINE_S", 30.0)


class Mode(StrEnum):
    IN_PROCESS = "in_process"
    SHARED = "shared"


class Plane:
    """A manager under test, with the ways in which tests use it."""

    def __init__(self, manager: ControlPlaneManager, mode: Mode) -> None:
        self.manager = manager
        self.mode = mode

    def register(
        self, engine_id: str, engine: SimulatedEngine | EchoEngine, model: str = "simulated-1", **more: Any
    ) -> EngineInfo:
        where = urlsplit(engine.url)
        assert where.hostname is not None
        assert where.port is not None
        kind = more.pop("engine_kind", "llm")
        return self.manager.register_engine(engine_id, model, where.hostname, where.port, kind, more or None)

    async def ready(self, *engine_ids: str) -> None:
        """Wait until these engines are READY."""

        def all_ready() -> bool:
            infos = [self.manager.get_engine(engine_id) for engine_id in engine_ids]
            return all(info is not None and info.state is EngineState.READY for info in infos)

        await wait_until(all_ready, what=lambda: [e.to_dict() for e in self.manager.list_engines()])

    async def placed(
        self, request_id: Any, model: str = "simulated-1", *, trace_id: Any = "t", **more: Any
    ) -> SchedulingDecision:
        """A place on an engine that is READY and has room; the scheduler may have to hear of it first."""
        decision = await self.manager.schedule_request(request_id, trace_id, model, **more)
        if decision.status is RequestStatus.QUEUED:
            assert self.mode is Mode.SHARED, f"it waits, and nobody has to be heard of: {decision}"
            told = await self.manager.wait_scheduled(request_id, 30)
            assert told is not None
            decision = told
        assert decision.is_scheduled, decision
        return decision

    async def read_anew(self) -> None:
        """Wait for a reading of the board that began after this; where the state is here, nothing is read."""
        if self.mode is Mode.SHARED:
            backend: Any = self.manager._backend  # pyright: ignore[reportPrivateUsage]
            engines, began = backend._engines, asyncio.get_running_loop().time()
            engines._wake.set()
            await wait_until(lambda: engines._read_at >= began, what="the board is read anew")

    async def active(self, engine_id: str, expected: int) -> None:
        """Wait until so many requests hold a place on the engine."""

        def so_many() -> bool:
            info = self.manager.get_engine(engine_id)
            return info is not None and info.active_requests == expected

        await wait_until(so_many, what=f"{expected} active on {engine_id}")


StartPlane = Callable[..., Awaitable[Plane]]


@pytest.fixture(params=list(Mode), ids=str)
def mode(request: pytest.FixtureRequest) -> Mode:
    return request.param


@pytest.fixture
async def start_plane(
    mode: Mode, redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[StartPlane, None]:
    """Start a manager; in shared mode with a scheduler and a worker that adopts."""
    for name, value in HURRY.items():
        monkeypatch.setenv(name, value)
    async with AsyncExitStack() as stack:
        where: dict[str, Any] = {}
        if mode is Mode.SHARED:
            redis = redis_settings
            await stack.enter_async_context(schedulers_and_workers(redis))
            where = {"redis_url": redis.url, "namespace": redis.namespace}

        async def start(**arguments: Any) -> Plane:
            plane = Plane(ControlPlaneManager(**where, **arguments), mode)
            await plane.manager.start()
            stack.push_async_callback(_leave_nothing, plane)
            return plane

        yield start


@asynccontextmanager
async def schedulers_and_workers(redis: RedisSettings, workers: int = 1) -> AsyncGenerator[None, None]:
    """A scheduler and workers that adopt, on the test's loop."""
    settings = WorkerSettings(adopt=True, drain_s=0.5, health_interval_s=0.2)
    stop = asyncio.Event()
    async with open_store(redis) as store, engine_client() as client, asyncio.TaskGroup() as tasks:
        scheduler = tasks.create_task(Scheduler(store, SchedulerSettings(sweep_s=0.5)).run())
        for _ in range(workers):
            tasks.create_task(Adopter(store, client, settings).run(stop))
        try:
            yield
        finally:
            stop.set()
            scheduler.cancel()


async def _leave_nothing(plane: Plane) -> None:
    for info in plane.manager.list_engines():
        plane.manager.unregister_engine(info.engine_id)
    await plane.manager.stop()


def a_request(request_id: str = "r-1", model: str = "simulated-1", **fields: Any) -> Request:
    """A request of the protocol."""
    given: dict[str, Any] = {"prompt": "Hello there", "max_tokens": 5, "stream": False, **fields}
    return Request(request_id=request_id, trace_id="t-1", model=model, **given)


@pytest.fixture
async def planes(redis_settings: RedisSettings) -> AsyncGenerator[tuple[Plane, Plane], None]:
    """Two managers on one server, with a scheduler and two workers that adopt."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(schedulers_and_workers(redis_settings, workers=2))
        made: list[Plane] = []
        for _ in range(2):
            manager = ControlPlaneManager(redis_url=redis_settings.url, namespace=redis_settings.namespace)
            made.append(Plane(manager, Mode.SHARED))
            await made[-1].manager.start()
            stack.push_async_callback(made[-1].manager.stop)
        yield made[0], made[1]
        for plane in made:
            for info in plane.manager.list_engines():
                plane.manager.unregister_engine(info.engine_id)
