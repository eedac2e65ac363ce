"""The system that is disturbed: nothing is asked before all of it is up."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from sagellm_control.chaos.plan import ChaosPlan
from sagellm_control.chaos.process import Kind
from sagellm_control.chaos.system import System
from sagellm_control.store.connect import open_store
from sagellm_control.store.views import list_engines
from sagellm_control.wire.states import EngineState

from ..waiting import wait_until


async def test_it_is_ready_when_its_gateways_are(tmp_path: Path) -> None:
    system = System(ChaosPlan(gateways=1, schedulers=1, workers=1, engines=1), tmp_path)
    [gateway] = system.of(Kind.GATEWAY)
    happened: list[str] = []
    try:
        await system.start()
        gateway.signal(signal.SIGSTOP)
        async with open_store(system.redis) as store, asyncio.TaskGroup() as tasks:

            async def ready() -> None:
                await system.wait_until_ready(store)
                happened.append("ready")

            async def engine_is_ready() -> bool:
                return [view.state for view in await list_engines(store)] == [EngineState.READY]

            tasks.create_task(ready())
            await wait_until(engine_is_ready, what="the engine is READY")
            await asyncio.sleep(0.5)  # for a look or two; too short a time can only hide that it does not wait
            happened.append("the gateway goes on")
            gateway.signal(signal.SIGCONT)
    finally:
        assert await system.stop() == []
    assert happened == ["the gateway goes on", "ready"]
