"""How many engines a model wants, and starting and stopping them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from sagellm_protocol import Request, Response

from sagellm_control import ControlPlaneManager, EngineState, ScalingManager
from sagellm_control.manager.load import ModelLoad
from sagellm_control.scaling import LaunchedEngine, ProcessLauncher, ScalingLimits, advise

from ..waiting import wait_until
from .conftest import HURRY, a_request
from .test_engine_instance import LocalEngine

LIMITS = ScalingLimits(max_engines=4)
SIMULATED = f"{sys.executable} -m sagellm_control engine --port {{port}} --model {{model}} --engine-id {{engine_id}}"


@pytest.mark.parametrize(
    ("load", "change", "reason"),
    [
        (ModelLoad("m", ready=2, coming=2, places=20, active=10), 0, ""),
        (ModelLoad("m", ready=2, coming=2, places=20, active=19), 2, "utilization 0.95, over 0.85"),
        (ModelLoad("m", ready=1, coming=1, places=10, active=10, waiting=3, wait_ms=1500), 2, "3 wait"),
        (ModelLoad("m", ready=2, coming=2, places=20, active=8, slo_miss_rate=0.2), 1, "20.0% miss their objective"),
        (ModelLoad("m", ready=3, coming=3, places=30, active=1), -2, "utilization 0.03, under 0.30"),
        (ModelLoad("m", ready=4, coming=4, places=40, active=40), 0, "limit"),
        (ModelLoad("m", ready=1, coming=1, places=10, active=0), 0, ""),
        (ModelLoad("m", ready=1, coming=3, places=10, active=10), 0, "utilization"),
        (ModelLoad("m"), 1, "bounds are 1 to 4"),
    ],
)
def test_the_advice_follows_the_figures(load: ModelLoad, change: int, reason: str) -> None:
    advice = advise(load, LIMITS)
    assert advice.change == change, advice
    assert reason in "; ".join(advice.reasons)


def test_a_change_has_to_cool_down() -> None:
    busy = ModelLoad("m", ready=1, coming=1, places=10, active=10)
    assert advise(busy, LIMITS, since_change_s=10).change == 0
    assert "30 s have to pass" in advise(busy, LIMITS, since_change_s=10).reasons[-1]
    assert advise(busy, LIMITS, since_change_s=31).change > 0
    idle = ModelLoad("m", ready=2, coming=2, places=20)
    assert advise(idle, LIMITS, since_change_s=31).change == 0
    assert advise(idle, LIMITS, since_change_s=301).change == -1


@pytest.fixture
async def manager(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ControlPlaneManager, None]:
    for name, value in HURRY.items():
        monkeypatch.setenv(name, value)
    manager = ControlPlaneManager()
    await manager.start()
    yield manager
    await manager.stop()


async def test_recommendations_of_a_quiet_plane(manager: ControlPlaneManager) -> None:
    manager.register_engine("e1", "m", "127.0.0.1", 1, metadata={"pre_verified_healthy": True})
    said = ScalingManager(manager).get_scaling_recommendations()
    assert {name: said[name] for name in ("total_engines", "total_active_requests", "avg_load_per_engine")} == {
        "total_engines": 1,
        "total_active_requests": 0,
        "avg_load_per_engine": 0.0,
    }
    assert said["recommendation"] == "No change"
    assert (said["scale_up_suggested"], said["scale_down_suggested"]) == (False, False)


async def test_a_full_plane_wants_more(manager: ControlPlaneManager) -> None:
    metadata = {"pre_verified_healthy": True, "max_concurrent_requests": 2}
    manager.register_engine("e1", "m", "127.0.0.1", 1, metadata=metadata)
    for number in range(4):
        await manager.schedule_request(f"r{number}", "t", "m")
    said = ScalingManager(manager).get_scaling_recommendations()
    assert said["scale_up_suggested"] is True
    assert said["models"]["m"]["waiting"] == 2
    assert said["models"]["m"]["change"] > 0
    assert "utilization 2.00" in said["recommendation"]


async def test_without_a_launcher(manager: ControlPlaneManager) -> None:
    scaling = ScalingManager(manager)
    with pytest.raises(NotImplementedError, match=r"TODO.*launcher"):
        await scaling.scale_up("m")
    manager.register_engine("e1", "m", "127.0.0.1", 1)
    manager.register_engine("e2", "m", "127.0.0.1", 2)
    assert await scaling.scale_down(["e1", "nobody"]) == ["e1"]
    info = manager.get_engine("e1")
    assert info is not None
    assert info.state is EngineState.DRAINING
    assert await scaling.scale_down(["e2"], graceful=False) == ["e2"]
    assert manager.get_engine("e2") is None


async def test_processes_are_started_used_drained_and_stopped(manager: ControlPlaneManager) -> None:
    launcher = ProcessLauncher(SIMULATED)
    scaling = ScalingManager(manager, launcher)
    try:
        (engine_id,) = await scaling.scale_up("simulated-1")
        await wait_until(lambda: manager.healthy_engine_count == 1, 20, what="the engine answers")
        assert (await manager.execute_request(a_request())).error is None
        decision = await manager.schedule_request("r", "t", "simulated-1")
        assert await scaling.scale_down([engine_id]) == [engine_id]
        assert launcher.owns(engine_id), "it is still busy"
        assert decision.engine_id == engine_id
        manager.complete_request("r", engine_id)
        await wait_until(lambda: manager.get_engine(engine_id) is None, what="the engine is gone")
        await wait_until(lambda: not launcher.owns(engine_id), what="its process is gone")
    finally:
        await scaling.close()
        await launcher.close()


async def test_the_control_loop_keeps_the_least_number(manager: ControlPlaneManager) -> None:
    launcher = ProcessLauncher(SIMULATED)
    scaling = ScalingManager(manager, launcher, ScalingLimits(min_engines=2, up_cooldown_s=0))
    try:
        await scaling.scale_up("simulated-1")
        async with scaling.running(interval_s=0.05):
            await wait_until(lambda: manager.healthy_engine_count == 2, 20, what="a second engine")
    finally:
        await launcher.close()


class FakeLauncher:
    """Its engines have this metadata."""

    def __init__(self, **metadata: Any) -> None:
        self.metadata = metadata
        self.launched: list[str] = []
        self.stopped: list[str] = []

    async def launch(self, model_id: str, instance_type: str) -> LaunchedEngine:
        self.launched.append(f"{model_id}-{len(self.launched)}")
        return LaunchedEngine(self.launched[-1], "127.0.0.1", 1, self.metadata)

    async def stop(self, engine_id: str) -> None:
        self.stopped.append(engine_id)

    def owns(self, engine_id: str) -> bool:
        return engine_id in self.launched and engine_id not in self.stopped


async def test_an_engine_that_cannot_be_registered_is_stopped_again(manager: ControlPlaneManager) -> None:
    manager.register_engine("e1", "m", "127.0.0.1", 1, metadata={"pre_verified_healthy": True})
    launcher = FakeLauncher(max_concurrent_requests="8")
    scaling = ScalingManager(manager, launcher, ScalingLimits(min_engines=2, up_cooldown_s=30))
    with pytest.raises(ValueError, match="max_concurrent_requests"):
        await scaling.step()
    assert (launcher.launched, launcher.stopped) == (["m-0"], ["m-0"])
    assert await scaling.step() == [], "a failure has to cool down too"
    assert launcher.launched == ["m-0"]
    assert [info.engine_id for info in manager.list_engines()] == ["e1"]


@pytest.mark.parametrize("number", [1.5, "2", None, True])
async def test_a_number_of_engines_that_is_none(manager: ControlPlaneManager, number: Any) -> None:
    with pytest.raises(TypeError, match=rf"^num_instances must be a whole number, not {number!r}$"):
        await ScalingManager(manager, FakeLauncher()).scale_up("m", number)


@pytest.mark.parametrize("engine_ids", ["e2", None, 7])
async def test_ids_that_are_no_list(manager: ControlPlaneManager, engine_ids: Any) -> None:
    with pytest.raises(TypeError, match=rf"^engine_ids must be a list of engine ids, not {engine_ids!r}$"):
        await ScalingManager(manager).scale_down(engine_ids)


def test_a_command_without_a_port() -> None:
    with pytest.raises(ValueError, match=r"\{port\}"):
        ProcessLauncher("serve {model}")


async def test_objectives_that_were_missed_in_the_queue_count(manager: ControlPlaneManager) -> None:
    """What an engine says of its first token knows nothing of the wait before."""
    engine = QuickEngine()
    metadata = {"engine_instance": engine, "pre_verified_healthy": True, "max_concurrent_requests": 1}
    manager.register_engine("e1", "m", "local", 0, metadata=metadata)
    held = await manager.schedule_request("first", "t", "m")
    asked = a_request(model="m", metadata={"slo_deadline_ms": 1})
    asking = asyncio.create_task(manager.execute_request(asked))
    await wait_until(lambda: manager.get_load()[0].waiting == 1)
    late = time.monotonic() + 0.002
    await wait_until(lambda: time.monotonic() > late)
    assert held.engine_id is not None
    manager.complete_request("first", held.engine_id)
    assert (await asking).error is None
    assert manager.get_load()[0].slo_miss_rate == 1.0
    in_time = await manager.execute_request(a_request("r-2", model="m", metadata={"slo_deadline_ms": 1e6}))
    assert in_time.error is None
    assert manager.get_load()[0].slo_miss_rate == pytest.approx(0.5, abs=0.01)


class QuickEngine(LocalEngine):
    """Says of each answer that its first token was there at once."""

    async def execute(self, request: Request) -> Response:
        response = await super().execute(request)
        response.metrics.ttft_ms = 0.01
        return response
