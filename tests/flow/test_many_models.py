"""Engines that serve several models, each in a pool of its own."""

from __future__ import annotations

from sagellm_control.client import QueueClient
from sagellm_control.wire.states import RequestState

from ..waiting import wait_until
from .conftest import StartEngine, StartSystem
from .in_process import InProcessSystem

MODELS = ["a", "b", "c", "d"]
ASSIGNED = (RequestState.ASSIGNED, RequestState.RUNNING)


async def until_running(system: InProcessSystem, *, at_engine: int, running: int) -> list[str]:
    """Wait until so many of the requests are the engine's, and so many of them run; those that run."""

    async def are() -> list[str]:
        views = [view for model in MODELS if (view := await system.find(f"of-{model}")) is not None]
        there = [view for view in views if view.state in ASSIGNED]
        found = [view.request_id for view in there if view.state is RequestState.RUNNING]
        return found if (len(there), len(found)) == (at_engine, running) else []

    return await wait_until(are, what=f"{at_engine} are assigned, {running} of them run")


async def test_an_engine_with_more_models_than_slots_gets_no_more_than_its_slots(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    engine = await start_engine(slots=2, models=MODELS, tpot_ms=20)
    system = await start_system(engine)
    async with QueueClient.connect(system.redis) as queue:
        for model in MODELS:
            body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 100_000}
            await queue.submit(model, body, stream=True, request_id=f"of-{model}")
        for ended, running in enumerate((2, 2, 2, 1)):
            found = await until_running(system, at_engine=4 - ended, running=running)
            state = await engine.until(running=running, total_requests=min(4, 2 + ended))
            assert state["waiting"] == 0, f"after {ended} have ended"
            await queue.cancel(found[0])
    await system.until_idle()
    assert (await engine.until(running=0))["peak_running"] == 2
