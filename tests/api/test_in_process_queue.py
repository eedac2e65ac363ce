"""The queue within the process is made of the schedulers' parts; each of them is seen at work here."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from sagellm_protocol import ErrorCode

from sagellm_control import ControlPlaneManager, RequestStatus
from sagellm_control.manager import local_backend
from sagellm_control.scheduler.estimates import PRIOR_TOKENS
from sagellm_control.scheduler.forecast import Forecast
from sagellm_control.scheduler.open_engines import OpenEngines
from sagellm_control.scheduler.placement import Hold
from sagellm_control.wire.request import Arrival

from ..waiting import wait_until
from .conftest import StartEngine, a_request

MODEL = "simulated-1"


def a_manager(policy: Any = "fifo", strategy: Any = "round_robin", **engines: dict[str, Any]) -> ControlPlaneManager:
    manager = ControlPlaneManager(policy, strategy)
    for name, metadata in engines.items():
        manager.register_engine(name, MODEL, "127.0.0.1", 1, metadata={"pre_verified_healthy": True, **metadata})
    return manager


async def served_order(manager: ControlPlaneManager, *names: str, **more: Any) -> list[str]:
    """All wait for ``e1``, which has one place; the order in which they get it."""
    await manager.schedule_request("first", "t", MODEL)
    for name in names:
        queued = await manager.schedule_request(name, "t", MODEL, **more.get(name, {}))
        assert queued.status is RequestStatus.QUEUED
    holder, order = "first", list[str]()
    while len(order) < len(names):
        manager.complete_request(holder, "e1")
        for name in names:
            decision = await manager.wait_scheduled(name, 0)
            if decision is not None and decision.is_scheduled:
                order.append(name)
                holder = name
    return order


async def test_an_order_needs_only_a_handicap() -> None:
    class LongestIdFirst:
        def handicap(self, request: Arrival, forecast: Forecast) -> float:
            return -1000.0 * len(request.id)

    manager = a_manager(LongestIdFirst(), e1={"max_concurrent_requests": 1})
    assert manager.get_status()["scheduling_policy"] == "LongestIdFirst"
    assert await served_order(manager, "a", "aaa", "aa") == ["aaa", "aa", "a"]


@pytest.mark.parametrize("fails", ["raises", "gives nonsense"])
async def test_a_policy_that_fails_stops_nothing(fails: str) -> None:
    class Failing:
        def handicap(self, request: Arrival, forecast: Forecast) -> float:
            if fails == "raises":
                raise RuntimeError("no")
            return float("nan")

        def choose(self, *_: object) -> str:
            if fails == "raises":
                raise RuntimeError("no")
            return "no such engine"

    manager = a_manager(Failing(), Failing(), e1={"max_concurrent_requests": 1})
    assert await served_order(manager, "a", "b") == ["a", "b"]


async def test_a_kv_budget_bounds_what_runs() -> None:
    manager = a_manager(e1={"kv_tokens": 1000})
    for name in ("a", "b"):
        assert (await manager.schedule_request(name, "t", MODEL, prompt="x" * 1600, max_tokens=100)).is_scheduled
    assert (await manager.schedule_request("c", "t", MODEL, prompt="x" * 1600, max_tokens=100)).queue_position == 1
    manager.complete_request("a", "e1")
    decision = await manager.wait_scheduled("c", 0)
    assert decision is not None
    assert decision.is_scheduled


async def test_room_comes_free_for_a_large_one() -> None:
    manager = a_manager(e1={"kv_tokens": 1000})
    small: dict[str, Any] = {"prompt": "x" * 1600, "max_tokens": 10}
    for name in ("a", "b"):
        assert (await manager.schedule_request(name, "t", MODEL, **small)).is_scheduled
    large = await manager.schedule_request("large", "t", MODEL, prompt="x" * 3600, max_tokens=10)
    assert large.status is RequestStatus.QUEUED
    manager.complete_request("a", "e1")
    manager.complete_request("b", "e1")
    decision = await manager.wait_scheduled("large", 0)
    assert decision is not None
    assert decision.is_scheduled


async def test_fair_shares(start_engine: StartEngine) -> None:
    """One tenant fills the line; the other one's few requests are not behind all of them."""
    engine = await start_engine()
    manager = ControlPlaneManager("fair")
    await manager.start()
    try:
        host, port = engine.url.removeprefix("http://").split(":")
        manager.register_engine("e1", MODEL, host, int(port), metadata={"max_concurrent_requests": 1})
        await wait_until(lambda: manager.healthy_engine_count == 1)
        served: list[str] = []

        async def ask(tenant: str, number: int) -> None:
            response = await manager.execute_request(a_request(f"{tenant}-{number}", metadata={"tenant": tenant}))
            assert response.error is None
            served.append(tenant)

        async with asyncio.TaskGroup() as tasks:
            for number in range(20):
                tasks.create_task(ask("many", number))
            await asyncio.sleep(0)
            for number in range(4):
                tasks.create_task(ask("few", number))
        assert Counter(served[:10])["few"] == 4, served
    finally:
        await manager.stop()


async def test_forecasts_are_learned(start_engine: StartEngine) -> None:
    learned: list[float] = []

    class Listening:
        def handicap(self, request: Arrival, forecast: Forecast) -> float:
            learned.append(forecast.output_tokens)
            return 0.0

    engine = await start_engine()
    host, port = engine.url.removeprefix("http://").split(":")
    manager = ControlPlaneManager(Listening())
    await manager.start()
    try:
        manager.register_engine("e1", MODEL, host, int(port), metadata={"max_concurrent_requests": 1})
        await wait_until(lambda: manager.healthy_engine_count == 1)
        for _ in range(2):
            await asyncio.gather(*(manager.execute_request(a_request(f"r{n}", max_tokens=400)) for n in range(4)))
            events = [event async for event in manager.stream_request(a_request(max_tokens=5))]
            assert len(events) > 2
    finally:
        await manager.stop()
    assert learned[0] == PRIOR_TOKENS
    assert learned[-1] > PRIOR_TOKENS + 1


async def test_speeds_are_learned(start_engine: StartEngine) -> None:
    """A slow engine counts as slow, once it has answered."""
    speeds: dict[str, float] = {}

    class Listening:
        def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | None:
            speeds.update({load.row.engine_id: load.row.speed.step_ms for load in engines.loads()})
            return next(engines.by_turn(request, forecast), None)

    manager = ControlPlaneManager("fifo", Listening())
    await manager.start()
    try:
        for name, tpot_ms in (("slow", 60), ("fast", 1)):
            host, port = (await start_engine(tpot_ms=tpot_ms)).url.removeprefix("http://").split(":")
            manager.register_engine(name, MODEL, host, int(port))
        await wait_until(lambda: manager.healthy_engine_count == 2)

        async def learned() -> bool:
            await asyncio.gather(*(manager.execute_request(a_request(f"r{n}", max_tokens=8)) for n in range(2)))
            return speeds["slow"] > 2 * speeds["fast"]

        await wait_until(learned, what=lambda: speeds)
    finally:
        await manager.stop()


async def test_a_prompt_goes_where_its_beginning_is(start_engine: StartEngine) -> None:
    engines = [await start_engine() for _ in range(2)]
    manager = ControlPlaneManager("fifo", "prefix_affinity")
    await manager.start()
    try:
        for number, engine in enumerate(engines):
            host, port = engine.url.removeprefix("http://").split(":")
            manager.register_engine(f"e{number}", MODEL, host, int(port))
        await wait_until(lambda: manager.healthy_engine_count == 2)
        for number in range(4):
            request = a_request(f"r{number}", prompt=f"{'a long beginning ' * 300}{number}", max_tokens=1)
            assert (await manager.execute_request(request)).error is None
        assert sorted([(await engine.state())["finished"] for engine in engines]) == [0, 4]
    finally:
        await manager.stop()


async def test_who_holds_out_is_passed_and_looked_at_again() -> None:
    class Choosy:
        """Wants an engine that there is not, for a moment."""

        def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | Hold:
            if request.id == "choosy" and now_ms < request.arrived_ms + 50:
                return Hold(request.arrived_ms + 50, "better")
            return next(engines.by_load(request, forecast))

    manager = a_manager("fifo", Choosy(), e1={"max_concurrent_requests": 2})
    assert (await manager.schedule_request("choosy", "t", MODEL)).status is RequestStatus.QUEUED
    assert (await manager.schedule_request("other", "t", MODEL)).is_scheduled
    decision = await manager.wait_scheduled("choosy", 10)
    assert decision is not None
    assert decision.engine_id == "e1"


async def test_a_request_says_that_it_is_no_use_late() -> None:
    manager = a_manager(e1={"max_concurrent_requests": 1})
    await manager.schedule_request("first", "t", MODEL)
    asked = a_request(metadata={"slo_deadline_ms": 1, "reject_late": True})
    asking = asyncio.create_task(manager.execute_request(asked))
    await wait_until(lambda: manager.get_load()[0].waiting == 1)
    await asyncio.sleep(0.002)  # its objective is that of 1 ms
    manager.complete_request("first", "e1")
    response = await asking
    assert response.error is not None
    assert response.error.code is ErrorCode.DEADLINE_EXCEEDED
    assert response.error.message == "The objective of 1 ms for the first token cannot be met"


async def test_who_waits_is_told_when_probes_lose_the_last_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_backend, "NO_ENGINE_GRACE_S", 0.02)
    manager = ControlPlaneManager(health_check_interval_s=0.01)
    metadata = {"pre_verified_healthy": True, "max_concurrent_requests": 1}
    manager.register_engine("e1", MODEL, "127.0.0.1", 1, metadata=metadata)
    assert (await manager.schedule_request("first", "t", MODEL)).is_scheduled
    assert (await manager.schedule_request("wish", "t", MODEL)).status is RequestStatus.QUEUED
    asks = asyncio.create_task(manager.execute_request(a_request()))
    await wait_until(lambda: manager.get_load()[0].waiting == 2, what="both wait")
    await manager.start()
    try:
        decision = await manager.wait_scheduled("wish", 30)
        assert decision is not None
        assert decision.reason == f"No healthy engines available for model {MODEL}"
        error = (await asks).error
        assert error is not None
        assert error.code is ErrorCode.UNAVAILABLE
    finally:
        await manager.stop()
