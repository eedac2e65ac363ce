"""An engine that a program has registered is served like one that a worker was started for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from prometheus_client import REGISTRY

from sagellm_control.store.connect import Store
from sagellm_control.store.registrations import register, unregister
from sagellm_control.store.views import EngineView, list_engines
from sagellm_control.wire.engine import EngineRole
from sagellm_control.wire.registration import Registration
from sagellm_control.wire.states import EngineState
from sagellm_workers.adapters.engine_http import EngineOptions
from sagellm_workers.http.transport import engine_client
from sagellm_workers.serving import adoption
from sagellm_workers.serving.adoption import Adopter
from sagellm_workers.settings import WorkerSettings

from ..lapsed import retire_lapsed
from ..pool_driver import PoolDriver
from ..waiting import wait_until
from .conftest import StartEcho, StartEngine
from .echo_engine import EchoEngine


async def test_it_is_known_for_what_it_is_and_the_limits_are_the_workers(
    store: Store, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[EngineOptions] = []
    real = adoption.discover_registered

    async def discover(*where: object, wire: str, **options: object) -> object:
        asked.append(options)  # type: ignore[arg-type]
        return await real(*where, wire=wire, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(adoption, "discover_registered", discover)
    where = urlsplit((await start_engine()).url)
    registration = Registration("e1", "simulated-1", where.hostname or "", where.port or 0, metadata={"api_key": "k"})
    settings = WorkerSettings(adopt=True, drain_s=0.5, gap_timeout_s=7, pass_priority=False, api_key="not this one")

    async def served() -> EngineView | None:
        return next((view for view in await list_engines(store) if view.state is EngineState.READY), None)

    stop = asyncio.Event()
    async with engine_client() as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(Adopter(store, client, settings).run(stop))
        await register(store, registration)
        view = await wait_until(served, what="the engine is served")
        await unregister(store, "simulated-1", "e1")
        stop.set()
    assert view.kind == "simulated"
    assert asked == [settings.engine_options | {"api_key": "k"}]


@asynccontextmanager
async def adopted(store: Store, echo: EchoEngine, **settings: object) -> AsyncGenerator[None]:
    where, stop = urlsplit(echo.url), asyncio.Event()
    chosen = WorkerSettings.model_validate({"adopt": True, "drain_s": 0.5, "health_interval_s": 0.1} | settings)
    async with engine_client() as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(Adopter(store, client, chosen).run(stop))
        await register(store, Registration("e1", "echo-1", where.hostname or "", where.port or 0))
        yield
        stop.set()


async def until_adopted(store: Store, state: EngineState, role: EngineRole, kv_tokens: int) -> None:
    async def is_so() -> bool:
        views = await list_engines(store)
        return [(view.state, view.role, view.kv_tokens) for view in views] == [(state, role, kv_tokens)]

    await wait_until(is_so, what=f"it is {state}, {role}, with {kv_tokens} KV tokens")


async def test_it_is_adopted_when_it_is_known_and_asked_again_now_and_then(
    store: Store, start_echo: StartEcho, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "PROBE_AGAIN_S", 0.05)
    echo = await start_echo()
    echo.card = {"owned_by": "sglang"}
    async with adopted(store, echo, survey_interval_s=0.1):
        await wait_until(lambda: echo.lists > 3, what="it is asked again and again")
        assert await list_engines(store) == []
        echo.server_info = {"disaggregation_mode": "decode", "max_total_num_tokens": 500}
        await until_adopted(store, EngineState.READY, EngineRole.DECODE, 500)
        echo.server_info = None
        asked = echo.lists
        await wait_until(lambda: echo.lists > asked + 2, what="it is asked again")
        await until_adopted(store, EngineState.READY, EngineRole.DECODE, 500)
        echo.server_info = {"max_total_num_tokens": 700}
        await until_adopted(store, EngineState.READY, EngineRole.GENERAL, 700)


async def test_it_is_asked_again_when_it_is_back(store: Store, start_echo: StartEcho) -> None:
    echo = await start_echo()
    echo.card, echo.server_info = {"owned_by": "sglang"}, {"max_total_num_tokens": 500}
    async with adopted(store, echo, survey_interval_s=3600):
        await until_adopted(store, EngineState.READY, EngineRole.GENERAL, 500)
        echo.healthy = False
        await until_adopted(store, EngineState.ERROR, EngineRole.GENERAL, 500)
        echo.server_info, echo.healthy = {"max_total_num_tokens": 700}, True
        await until_adopted(store, EngineState.READY, EngineRole.GENERAL, 700)


async def test_a_worker_tells_of_no_engine_that_has_been_withdrawn(store: Store, start_engine: StartEngine) -> None:
    where = urlsplit((await start_engine()).url)
    registration = Registration("withdrawn", "simulated-1", where.hostname or "", where.port or 0)
    settings = WorkerSettings(adopt=True, drain_s=0.5)

    def told() -> set[str]:
        families = REGISTRY.collect()
        return {s.name for family in families for s in family.samples if s.labels.get("engine") == "withdrawn"}

    stop = asyncio.Event()
    async with engine_client() as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(Adopter(store, client, settings).run(stop))
        await register(store, registration)
        await wait_until(lambda: "sagellm_control_engine_ready" in told(), what="the engine is told of")
        assert "sagellm_control_leases_lost_total" in told(), "from 0 on"
        await unregister(store, "simulated-1", "withdrawn")
        await wait_until(lambda: not told(), what="nothing of it is told")
        stop.set()


async def test_redis_away_for_a_moment_ends_no_adopter(
    store: Store, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = Adopter._is_held, list[str]()  # pyright: ignore[reportPrivateUsage]

    async def is_held(self: Adopter, registration: Registration) -> bool:
        asked.append(registration.engine_id)
        if len(asked) == 2:  # by the task that has begun to adopt it
            raise ConnectionError("Redis is away")
        return await real(self, registration)

    monkeypatch.setattr(Adopter, "_is_held", is_held)
    where = urlsplit((await start_engine()).url)

    async def served() -> bool:
        return any(view.state is EngineState.READY for view in await list_engines(store))

    stop = asyncio.Event()
    async with engine_client() as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(Adopter(store, client, WorkerSettings(adopt=True, drain_s=0.5)).run(stop))
        await register(store, Registration("e1", "simulated-1", where.hostname or "", where.port or 0))
        await wait_until(served, what="the engine is served")
        stop.set()
    assert len(asked) > 2


async def test_a_lease_that_has_lapsed_is_left_to_its_holder_and_to_keepers(store: Store, pool: PoolDriver) -> None:
    """Redis was away for longer than a lease, and its holder is about to renew it."""
    registration, leases = Registration("e1", pool.name, "127.0.0.1", 1), pool.keys.leases
    await pool.engine()
    async with engine_client() as client:
        adopter = Adopter(store, client, WorkerSettings(adopt=True))
        await store.commands.zadd(leases, {"e1": 1})
        assert await adopter._is_held(registration)  # pyright: ignore[reportPrivateUsage]
        assert await retire_lapsed(pool) == 0
        assert not await adopter._is_held(registration)  # pyright: ignore[reportPrivateUsage]
