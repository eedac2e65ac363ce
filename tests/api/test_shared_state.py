"""What only a shared state has: several managers, workers that share engines, programs that die."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from sagellm_protocol import ErrorCode

from sagellm_control import ControlPlaneManager, EngineState, RequestStatus
from sagellm_control.manager import promised, shared_engines
from sagellm_control.manager.backend import TOO_LATE
from sagellm_control.store.connect import Store, open_store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.engines import drain_engine, register_engine
from sagellm_control.store.views import list_engines
from sagellm_control.wire.engine import EngineRow

from ..waiting import wait_until
from .conftest import Plane, StartEngine, a_request


async def test_managers_see_and_use_the_same_engines(planes: tuple[Plane, Plane], start_engine: StartEngine) -> None:
    here, there = planes
    here.register("e1", await start_engine())
    await here.ready("e1")
    await there.ready("e1")
    assert (await there.manager.execute_request(a_request())).error is None
    assert (await there.placed("r")).engine_id == "e1"
    await here.active("e1", 1)
    there.manager.complete_request("r", "e1")
    await here.active("e1", 0)
    assert there.manager.unregister_engine("e1")
    await wait_until(lambda: here.manager.get_engine("e1") is None, what="it is gone everywhere")


async def test_a_held_engine_has_one_worker(
    planes: tuple[Plane, Plane], start_engine: StartEngine, redis_settings: RedisSettings
) -> None:
    here, _ = planes
    engine = await start_engine()
    names = [f"e{number}" for number in range(6)]
    for name in names:
        here.register(name, engine)
    await here.ready(*names)
    async with open_store(redis_settings) as store:
        views = await list_engines(store)
    assert sorted(view.engine_id for view in views) == names
    assert len({view.worker for view in views}) == len(names), "each has a session of its own"


async def test_an_engine_that_is_registered_again_at_once_takes_requests_again(
    planes: tuple[Plane, Plane], start_engine: StartEngine
) -> None:
    here, there = planes
    engine = await start_engine()
    here.register("e1", engine)
    await there.ready("e1")
    here.manager.unregister_engine("e1")
    here.register("e1", engine)
    assert (await here.manager.schedule_request("r", "t", "simulated-1")).reason, "all is written"
    here.manager.complete_request("r", "e1")
    await here.ready("e1")
    await there.ready("e1")
    assert (await there.manager.execute_request(a_request())).error is None


async def test_what_drains_since_it_was_unregistered_is_not_back_on_the_board(
    planes: tuple[Plane, Plane], store: Store
) -> None:
    here, _ = planes
    engines = here.manager._backend._engines  # type: ignore[attr-defined]
    row = EngineRow("e1", "m", "http://127.0.0.1:1", "openai", 1, ("m",), state=EngineState.READY, worker="slow")
    await register_engine(store, row, lease_ms=3_600_000)
    await here.ready("e1")
    here.manager.unregister_engine("e1")
    await engines.flush(store)
    await engines.refresh(store)
    assert here.manager.list_engines() == []
    here.manager.register_engine("e1", "m", "127.0.0.1", 1)
    await here.ready("e1")
    here.manager.unregister_engine("e1")
    await engines.flush(store)
    await drain_engine(store, "m", "e1", drain=False)  # as somebody who runs its worker may
    await here.ready("e1")


async def test_an_order_of_ones_own_cannot_be_shared(redis_settings: RedisSettings) -> None:
    class Mine:
        name = "mine"
        fair = False

        def handicap(self, request: object, forecast: object) -> float:
            return 0.0

        def charge(self, request: object, forecast: object) -> float:
            return 0.0

    with pytest.raises(ValueError, match="scheduling_policy"):
        ControlPlaneManager(Mine(), redis_url=redis_settings.url)


async def test_a_wish_that_waits_when_its_manager_stops_is_told(
    planes: tuple[Plane, Plane], start_engine: StartEngine
) -> None:
    here, there = planes
    here.register("e1", await start_engine(), max_concurrent_requests=1)
    await here.ready("e1")
    await there.ready("e1")
    await here.placed("r1")
    assert (await here.manager.schedule_request("r2", "t", "simulated-1")).status is RequestStatus.QUEUED
    waits = asyncio.create_task(here.manager.wait_scheduled("r2"))
    asks = asyncio.create_task(here.manager.schedule_request("r3", "t", "simulated-1"))
    await asyncio.sleep(0)
    await here.manager.stop()
    for decision in (await waits, await asks):
        assert decision is not None
        assert (decision.status, decision.reason) == (RequestStatus.FAILED, "The manager was stopped")
    here.manager.complete_request("r1", "e1")  # it has been given back
    await here.manager.stop()
    await there.active("e1", 0)


async def test_what_others_have_written_wrongly_stops_nobody(
    planes: tuple[Plane, Plane], start_engine: StartEngine, redis_settings: RedisSettings
) -> None:
    here, _ = planes
    here.register("e1", await start_engine())
    await here.ready("e1")
    async with open_store(redis_settings) as store:
        key = store.keys.pool("simulated-1").registrations
        for name, change in (("e5", {"engine_id": 5}), ("e6", {"created_at": "today"}), ("e7", {"state": "TIRED"})):
            fields = {"engine_id": name, "model_id": "simulated-1", "host": "h", "port": 1, **change}
            await store.commands.hset(key, name, orjson.dumps(fields))
        await store.commands.hset(key, "e1", b"no JSON")
        assert here.manager.update_engine_state("e1", EngineState.DRAINING)
        here.register("e2", await start_engine())
        await here.ready("e2")
        assert (await here.manager.execute_request(a_request())).error is None
        await store.commands.hdel(key, "e1", "e5", "e6", "e7")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("engine_id", None),
        ("engine_id", 5),
        ("engine_id", "e\ud800"),
        ("model_id", None),
        ("model_id", 7),
        ("metadata", {"x": 2**70}),
        ("metadata", {"x": "\ud800"}),
    ],
    ids=ascii,
)
async def test_an_engine_that_cannot_be_shared_is_refused(
    planes: tuple[Plane, Plane], start_engine: StartEngine, argument: str, value: Any
) -> None:
    manager = planes[0].manager
    arguments: dict[str, Any] = {"engine_id": "odd", "model_id": "odd", "host": "127.0.0.1", "port": 1}
    with pytest.raises((TypeError, ValueError), match=f"^{argument} "):
        manager.register_engine(**{**arguments, argument: value})
    assert manager.list_engines() == []
    planes[0].register("e1", await start_engine())
    await planes[1].ready("e1")


async def test_an_engine_that_no_worker_serves_is_not_ready_for_ever(
    redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promised, "SERVED_WITHIN_S", 1.0)
    manager = ControlPlaneManager(redis_url=redis_settings.url, namespace=redis_settings.namespace)
    await manager.start()
    info = manager.register_engine("e1", "m", "127.0.0.1", 1, metadata={"pre_verified_healthy": True})
    hasty = await manager.execute_request(a_request(model="m"), timeout_s=0.05)
    assert hasty.error is not None
    assert hasty.error.code is ErrorCode.DEADLINE_EXCEEDED
    assert (await manager.schedule_request("r", "t", "m", deadline_ms=50)).reason == TOO_LATE
    assert info.state is EngineState.READY
    patient = await manager.execute_request(a_request(model="m"), timeout_s=30)
    assert patient.error is not None
    assert (patient.error.code, info.state) == (ErrorCode.UNAVAILABLE, EngineState.STARTING)
    manager.unregister_engine("e1")
    await manager.stop()


async def test_a_place_counts_on_the_board_before_that_is_read_anew(
    planes: tuple[Plane, Plane], start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = planes
    info = here.register("e1", await start_engine())
    await here.ready("e1")
    monkeypatch.setattr(shared_engines, "LOOK_EVERY_S", 3600.0)
    await here.read_anew()  # and then not any more
    for number in (1, 2):
        decision = await here.manager.schedule_request(f"r{number}", "t", "simulated-1")
        if not decision.is_scheduled:  # its scheduler has not heard of the engine yet
            assert (await here.manager.wait_scheduled(f"r{number}", 30)) is not None
        assert info.active_requests == number
    for number in (1, 2):
        here.manager.complete_request(f"r{number}", "e1")
        assert info.active_requests == 2 - number


async def test_the_status_tells_what_the_pools_have_recorded(
    planes: tuple[Plane, Plane], start_engine: StartEngine, redis_settings: RedisSettings
) -> None:
    here, there = planes

    def told(plane: Plane) -> tuple[str, str]:
        status = plane.manager.get_status()
        return status["scheduling_policy"], status["routing_strategy"]

    here.register("e1", await start_engine())
    await wait_until(lambda: told(here) == told(there) == ("shortest", "kv_cost"), what="what schedulers do unasked")
    async with open_store(redis_settings) as store:
        await store.commands.hset(store.keys.pool("simulated-1").settings, mapping={"policy": "fair"})
        await wait_until(lambda: told(here) == told(there) == ("fair", "kv_cost"), what="what was recorded")
        here.register("e2", await start_engine(), model="other")
        await wait_until(lambda: told(there) == ("fair, shortest", "kv_cost"), what="pools that differ")


async def test_the_policy_of_a_manager_begins_an_epoch(
    start_engine: StartEngine, redis_settings: RedisSettings
) -> None:
    """So that schedulers rank anew what waits."""
    manager = ControlPlaneManager("fair", redis_url=redis_settings.url, namespace=redis_settings.namespace)
    await manager.start()
    try:
        where = urlsplit((await start_engine()).url)
        manager.register_engine("e1", "simulated-1", where.hostname or "", where.port or 0)
        async with open_store(redis_settings) as store:
            key = store.keys.pool("simulated-1").settings
            await wait_until(lambda: store.commands.hget(key, "policy"), what="it is recorded")
            assert await store.commands.hmget(key, "policy", "epoch") == [b"fair", b"1"]
    finally:
        await manager.stop()
