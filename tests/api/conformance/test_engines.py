"""Engines of a manager, wherever its state lives."""

from __future__ import annotations

from threading import Lock
from typing import Any

import pytest
from sagellm_protocol import StreamEventEnd

from sagellm_control import EngineInfo, EngineState
from sagellm_control.store.connect import open_store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.views import list_engines

from ...waiting import wait_until
from ..conftest import StartEngine, StartPlane, a_request


async def test_an_engine_becomes_ready_by_itself(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    info = plane.register("e1", await start_engine())
    assert isinstance(info, EngineInfo)
    assert info.state is EngineState.STARTING
    await plane.ready("e1")
    assert plane.manager.get_engine("e1") is info
    assert info.last_heartbeat is not None
    assert info.last_heartbeat.tzinfo is not None


async def test_an_engine_that_is_said_to_be_healthy_is_used_at_once(
    start_plane: StartPlane, start_engine: StartEngine
) -> None:
    plane = await start_plane()
    names = ["m1", "m2", "m3"]
    engine = await start_engine(models=names)
    for name in names:
        assert plane.register(name, engine, model=name, pre_verified_healthy=True).state is EngineState.READY
    assert (await plane.manager.execute_request(a_request(model="m1"), timeout_s=30)).error is None
    assert (await plane.manager.schedule_request("r", "t", "m2")).engine_id == "m2"
    *_, end = [event async for event in plane.manager.stream_request(a_request(model="m3"))]
    assert isinstance(end, StreamEventEnd)
    assert end.error is None
    plane.manager.complete_request("r", "m2")
    await plane.ready(*names)


async def test_a_taken_id_is_refused(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    engine = await start_engine()
    plane.register("e1", engine)
    with pytest.raises(ValueError, match=r"^Engine e1 already registered$"):
        plane.register("e1", engine)


async def test_engines_are_listed_in_the_order_of_their_registration(
    start_plane: StartPlane, start_engine: StartEngine
) -> None:
    plane = await start_plane()
    engine = await start_engine()
    for name in ("z", "a", "m"):
        plane.register(name, engine)
    await plane.ready("z", "a", "m")
    manager = plane.manager
    assert [info.engine_id for info in manager.list_engines()] == ["z", "a", "m"]
    assert manager.update_engine_state("a", EngineState.DRAINING) is True
    assert [info.engine_id for info in manager.list_engines(EngineState.READY)] == ["z", "m"]
    assert (manager.engine_count, manager.healthy_engine_count) == (3, 2)
    assert manager.get_engines_for_model("simulated-1") == manager.list_engines()
    assert manager.get_engines_for_model("Simulated-1") == []


async def test_an_engine_is_unregistered(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine())
    await plane.ready("e1")
    assert plane.manager.unregister_engine("e1") is True
    assert plane.manager.unregister_engine("e1") is False
    assert plane.manager.get_engine("e1") is None
    decision = await plane.manager.schedule_request("r", "t", "simulated-1")
    assert decision.reason == "No healthy engines available for model simulated-1"


async def test_a_state_is_set_by_its_name_too(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine())
    await plane.ready("e1")
    assert plane.manager.update_engine_state("e1", "STOPPED") is True  # type: ignore[arg-type]
    assert [info.engine_id for info in plane.manager.list_engines(EngineState.STOPPED)] == ["e1"]
    with pytest.raises(ValueError, match=r"STARTING, READY, DRAINING, STOPPED, ERROR"):
        plane.manager.update_engine_state("e1", "BROKEN")  # type: ignore[arg-type]
    assert plane.manager.update_engine_state("nobody", EngineState.READY) is False


async def test_an_engine_that_is_taken_out_takes_nothing_until_it_is_back(
    start_plane: StartPlane, start_engine: StartEngine
) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine())
    await plane.ready("e1")
    plane.manager.update_engine_state("e1", EngineState.DRAINING)
    assert (await plane.manager.schedule_request("r1", "t", "simulated-1")).engine_id is None
    plane.manager.update_engine_state("e1", EngineState.READY)

    async def scheduled() -> bool:
        return (await plane.manager.schedule_request("r2", "t", "simulated-1")).is_scheduled

    await wait_until(scheduled, what="the engine takes requests again")
    plane.manager.complete_request("r2", "e1")


async def test_the_status(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane(scheduling_policy="priority", routing_strategy="least_loaded")
    engine = await start_engine()
    plane.register("e1", engine)
    plane.register("e2", engine, instance_type="hybrid")
    plane.register("e3", engine, model="other")
    await plane.ready("e1", "e2", "e3")
    plane.manager.update_engine_state("e2", EngineState.STOPPED)
    assert plane.manager.get_status() == {
        "total_engines": 3,
        "healthy_engines": 2,
        "unhealthy_engines": 1,
        "models": ["simulated-1", "other"],
        "scheduling_policy": "priority",
        "routing_strategy": "least_loaded",
        "engine_types": {"general": 2, "hybrid": 1},
        "mode": "local",
    }


async def test_start_and_stop_may_be_repeated(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    await plane.manager.start()
    await plane.manager.stop()
    await plane.manager.stop()
    await plane.manager.start()
    plane.register("e1", await start_engine())
    await plane.ready("e1")


async def test_any_metadata_is_kept(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    metadata: dict[Any, Any] = {1: 2, EngineState.READY: {"lock": Lock()}, "set": {1}, "raw": b"\xff"}
    info = plane.register("e1", await start_engine(), labels=metadata)
    await plane.ready("e1")
    assert info.metadata["labels"] is metadata


async def test_a_port_may_be_text(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane, engine = await start_plane(), await start_engine()
    host, port = engine.url.removeprefix("http://").split(":")
    plane.manager.register_engine("e1", "simulated-1", host, port)  # type: ignore[arg-type]
    await plane.ready("e1")


async def test_a_state_that_a_program_writes_on_an_engine_holds(
    start_plane: StartPlane, start_engine: StartEngine
) -> None:
    plane = await start_plane()
    info = plane.register("e1", await start_engine())
    await plane.ready("e1")
    info.state = EngineState.DRAINING
    assert (await plane.manager.schedule_request("r1", "t", "simulated-1")).engine_id is None
    await plane.read_anew()
    assert info.state is EngineState.DRAINING
    assert (await plane.manager.execute_request(a_request())).error is not None
    info.state = EngineState.READY

    async def answers() -> bool:
        return (await plane.manager.execute_request(a_request())).error is None

    await wait_until(answers, what="the engine takes requests again")


async def test_an_engine_goes_whatever_a_program_wrote_on_it(
    start_plane: StartPlane, start_engine: StartEngine, redis_settings: RedisSettings
) -> None:
    plane = await start_plane()
    info = plane.register("e1", await start_engine())
    await plane.ready("e1")
    info.model_id = "other"
    assert plane.manager.unregister_engine("e1")
    async with open_store(redis_settings) as store:

        async def gone() -> bool:
            return await list_engines(store) == []

        await wait_until(gone, what="no worker serves it any more")
    await plane.read_anew()
    assert plane.manager.list_engines() == []
