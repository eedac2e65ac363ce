"""The overload mode, from the policy that turns it on to what a client is told."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

from sagellm_control.wire.states import Outcome, RequestState

from ..waiting import wait_until
from .asking import error_of, post_chat
from .conftest import SimulatedEngine, StartSystem
from .in_process import InProcessSystem
from .occupying import occupy

TARGET_MS = 300


async def test_the_newest_goes_first_and_who_has_waited_for_too_long_is_refused(
    busy_engine: SimulatedEngine, start_system: StartSystem
) -> None:
    system = await start_system(busy_engine, scheduler_sweep_s=0.1)
    settings = {"overload": "codel", "overload_interval_ms": 100, "overload_target_ms": TARGET_MS}
    async with system.session.post(system.url + "/admin/set_policy", json=settings) as response:
        assert response.status == 200
    async with system.session.get(system.url + "/admin/metrics"):
        pass  # the gateway has looked at the pool since then, and can say what its policy is
    async with AsyncExitStack() as running:
        await occupy(running, system, "runs")
        waits = asyncio.create_task(_refusal(system, "waits"))
        await system.until("waits", RequestState.WAITING)
        numbers = count()

        async def newest_goes_first() -> bool:
            async with AsyncExitStack() as stack:
                newest = f"newest-{next(numbers)}"
                await occupy(stack, system, newest)
                view = await system.find(newest)
                return view is not None and view.position == 0

        await wait_until(newest_goes_first, what="the pool is overloaded")
        await wait_until(lambda: _has_waited(system, "waits", TARGET_MS), what="it has waited for too long")
        assert not waits.done(), "it is refused at the head of the line, when there is room"
    async with asyncio.timeout(20):
        error = await waits
    assert error["code"] == "overloaded"
    assert error["message"].endswith(f" The model's policy has overload_target_ms={TARGET_MS}.")
    assert await system.until_outcome("waits") == Outcome.REJECTED


async def _refusal(system: InProcessSystem, request_id: str) -> dict[str, Any]:
    async with post_chat(system, {"X-Request-ID": request_id}) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        return await error_of(response)


async def _has_waited(system: InProcessSystem, request_id: str, ms: float) -> bool:
    view = await system.find(request_id)
    assert view is not None
    seconds, microseconds = await system.store.commands.time()
    return seconds * 1000 + microseconds / 1000 > float(view.fields["arrived_ms"]) + ms
