"""Whatever happens to the queue within the process, its books agree, and nobody waits beside a free place."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sagellm_control import ControlPlaneManager, EngineState, RequestPriority
from sagellm_control.manager.local_queue import ModelQueue

MODEL = "m"


def queue_of(manager: ControlPlaneManager) -> ModelQueue:
    backend: Any = manager._backend  # pyright: ignore[reportPrivateUsage]
    return backend._queues[MODEL]


@pytest.mark.parametrize("policy", ["fifo", "priority", "fair", "kv_aware", "adaptive"])
@pytest.mark.parametrize("strategy", ["round_robin", "kv_cost", "prefix_affinity"])
async def test_the_books_agree_after_anything(policy: str, strategy: str) -> None:
    dice = random.Random(f"{policy} {strategy}")
    manager = ControlPlaneManager(policy, strategy)
    for number, kv_tokens in enumerate((0, 4000, 2000)):
        metadata: dict[str, Any] = {"pre_verified_healthy": True, "max_concurrent_requests": 4}
        manager.register_engine(
            f"e{number}", MODEL, "h", 1, metadata=metadata | ({"kv_tokens": kv_tokens} if kv_tokens else {})
        )
    infos = manager.list_engines()
    held: dict[str, str] = {}
    waiting: list[str] = []

    async def look() -> None:
        for name in list(waiting):
            decision = await manager.wait_scheduled(name, 0)
            if decision is None or decision.engine_id is not None:
                waiting.remove(name)
                if decision is not None and decision.engine_id is not None:
                    held[name] = decision.engine_id

    for step in range(600):
        match dice.choice(("ask", "ask", "ask", "complete", "complete", "leave", "down", "up")):
            case "ask":
                decision = await manager.schedule_request(
                    name := f"r{step}",
                    "t",
                    MODEL,
                    prompt="x" * dice.choice((10, 4000)),
                    max_tokens=dice.choice((5, 900)),
                    priority=dice.choice(list(RequestPriority)),
                    deadline_ms=dice.choice((None, 60_000.0)),
                )
                if decision.engine_id is not None:
                    held[name] = decision.engine_id
                elif decision.queue_position:
                    waiting.append(name)
            case "complete" if held:
                name = dice.choice(list(held))
                manager.complete_request(name, held.pop(name))
            case "leave" if waiting:
                name = waiting.pop(dice.randrange(len(waiting)))
                manager.complete_request(name, "e0")
            case "down":
                dice.choice(infos).state = EngineState.DRAINING
            case _:
                dice.choice(infos).state = EngineState.READY
        await look()
        active = [sum(engine == info.engine_id for engine in held.values()) for info in infos]
        assert [info.active_requests for info in infos] == active, step
    for info in infos:
        info.state = EngineState.READY
    while held or waiting:
        await look()
        assert held, f"{len(waiting)} wait beside free engines"
        name = next(iter(held))
        manager.complete_request(name, held.pop(name))
    queue: Any = queue_of(manager)
    assert (len(queue), queue._engines.places, queue._engines.requests) == (0, 12, 0)
    assert all(load.kv_held < 1e-6 for load in queue._engines.loads())
    assert not queue._head._holds


async def test_what_runs_on_an_engine_that_comes_back_holds_its_kv_tokens() -> None:
    manager = ControlPlaneManager()
    info = manager.register_engine("e1", MODEL, "h", 1, metadata={"pre_verified_healthy": True, "kv_tokens": 1000})
    for name in ("a", "b"):
        assert (await manager.schedule_request(name, "t", MODEL, prompt="x" * 1600, max_tokens=50)).is_scheduled
    for state in (EngineState.ERROR, EngineState.READY):
        info.state = state
    assert (await manager.schedule_request("c", "t", MODEL, prompt="x" * 1600, max_tokens=50)).queue_position == 1
    manager.complete_request("a", "e1")
    decision = await manager.wait_scheduled("c", 0)
    assert decision is not None
    assert decision.is_scheduled
