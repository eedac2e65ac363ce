"""Places for callers that run their requests themselves, wherever the manager's state lives."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_control import RequestStatus, SchedulingDecision

from ..conftest import StartEngine, StartPlane


async def test_a_place_at_once(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine())
    await plane.ready("e1")
    decision = await plane.placed("r1", prompt="Hello", max_tokens=10)
    assert isinstance(decision, SchedulingDecision)
    assert (decision.engine_id, decision.queue_position, decision.estimated_wait_ms) == ("e1", 0, 0.0)
    assert decision.reason == "Routed to e1 (least loaded)"
    await plane.active("e1", 1)
    plane.manager.complete_request("r1", "e1")
    await plane.active("e1", 0)


async def test_no_engine_of_the_model(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine())
    await plane.ready("e1")
    for model in ("other", "", "default"):
        decision = await plane.manager.schedule_request("r1", "t1", model)
        assert decision == SchedulingDecision(
            "r1", None, status=RequestStatus.FAILED, reason=f"No healthy engines available for model {model}"
        )


async def test_a_full_engine_makes_a_queue(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine(), max_concurrent_requests=1)
    await plane.ready("e1")
    manager = plane.manager
    await plane.placed("r1")
    second = await manager.schedule_request("r2", "t", "simulated-1")
    third = await manager.schedule_request("r3", "t", "simulated-1")
    assert [second.status, third.status] == [RequestStatus.QUEUED, RequestStatus.QUEUED]
    assert [second.queue_position, third.queue_position] == [1, 2]
    assert 0 < second.estimated_wait_ms < third.estimated_wait_ms
    assert (await manager.schedule_request("r3", "t", "simulated-1")).queue_position == 2

    manager.complete_request("r1", "e1")
    decision = await manager.wait_scheduled("r2", 10)
    assert decision is not None
    assert decision.engine_id == "e1"
    manager.complete_request("r3", "e1")  # it does not want to wait any longer
    assert await manager.wait_scheduled("r3") is None
    manager.complete_request("r2", "e1")
    await plane.active("e1", 0)


async def test_the_room_of_engines_that_do_not_say(
    start_plane: StartPlane, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGELLM_CONTROL_MANAGER_MAX_CONCURRENT_REQUESTS", "1")
    plane = await start_plane()
    plane.register("e1", await start_engine())
    await plane.ready("e1")
    await plane.placed("r1")
    assert (await plane.manager.schedule_request("r2", "t", "simulated-1")).status is RequestStatus.QUEUED
    (load,) = plane.manager.get_load()
    assert load.places == 1
    for name in ("r2", "r1"):
        plane.manager.complete_request(name, "e1")
    await plane.active("e1", 0)


async def test_a_place_is_given_back_once(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine())
    await plane.ready("e1")
    for name in ("r1", "r2"):
        await plane.placed(name)
    plane.manager.complete_request("r1", "e1")
    plane.manager.complete_request("r1", "e1")
    plane.manager.complete_request("nobody", "e1")
    plane.manager.complete_request("r2", "nowhere")
    await plane.active("e1", 1)
    plane.manager.complete_request("r2", "e1")
    await plane.active("e1", 0)


async def test_an_id_may_be_used_twice(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine())
    await plane.ready("e1")
    for _ in range(2):
        await plane.placed("r")
    await plane.active("e1", 2)
    for left in (1, 0):
        plane.manager.complete_request("r", "e1")
        await plane.active("e1", left)


async def test_a_deadline_passes_in_the_queue(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine(), max_concurrent_requests=1)
    await plane.ready("e1")
    await plane.placed("r1")
    waiting = await plane.manager.schedule_request("r2", "t", "simulated-1", deadline_ms=200)
    assert waiting.status is RequestStatus.QUEUED
    decision = await plane.manager.wait_scheduled("r2", 10)
    assert decision is not None
    assert (decision.status, decision.reason) == (RequestStatus.FAILED, "The deadline passed while it waited")
    plane.manager.complete_request("r1", "e1")
    await plane.active("e1", 0)


async def test_reservations_leave_room_for_others(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine(), max_concurrent_requests=2)
    plane.register("e2", await start_engine(), max_concurrent_requests=2)
    await plane.ready("e1", "e2")
    decisions = await asyncio.gather(*(plane.placed(f"r{number}") for number in range(4)))
    assert sorted(str(decision.engine_id) for decision in decisions) == ["e1", "e1", "e2", "e2"]
    for decision in decisions:
        assert decision.engine_id is not None
        plane.manager.complete_request(decision.request_id, decision.engine_id)
    await plane.active("e1", 0)
    await plane.active("e2", 0)
