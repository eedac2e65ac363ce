"""A watched engine that answers what it is told, with a lease that only remembers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.states import EngineState
from sagellm_workers.health.breaker import BreakerSettings
from sagellm_workers.health.health import HealthSettings, HealthWatch

ROW = EngineRow("e1", "watched", "", "openai", 4, (), prefetch=2)
SETTINGS = HealthSettings(
    interval_s=0.01, slow_start_s=0, breaker=BreakerSettings(min_requests=4, open_s=0.05), longest_pause_s=0.05
)


class RememberingLease:
    """Stands in for a ``Lease``."""

    def __init__(self) -> None:
        self.held = 0
        self.last_resort = False
        self.last: tuple[EngineState, str, int | None] = (EngineState.READY, "", None)
        self.states: list[EngineState] = []

    def report(
        self, state: EngineState, reason: str = "", *, limit: int | None = None, last_resort: bool = False
    ) -> None:
        self.last_resort = last_resort
        self.last = (state, reason, limit)
        self.states.append(state)

    async def reported(self) -> None:
        """It is at once."""


class Engine:
    """Stands in for an adapter; answers what it is told."""

    def __init__(self) -> None:
        self.well = True
        self.probes = 0
        self.others = True
        self.heard_at = float("-inf")
        self.speaks = False
        """Some answer goes on while it is probed."""

    async def others_serve(self) -> bool:
        return self.others

    async def healthy(self) -> bool:
        self.probes += 1
        if self.speaks:
            self.heard_at = time.monotonic()
        return self.well


@contextlib.asynccontextmanager
async def watching(
    engine: Any,
    lease: Any,
    settings: HealthSettings = SETTINGS,
    returned: Callable[[], Awaitable[None]] | None = None,
    row: EngineRow = ROW,
) -> Any:
    watch = HealthWatch(engine, row, lease, settings, others_serve=engine.others_serve, returned=returned)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.wait({task})
