"""Watches whether an engine answers."""

from __future__ import annotations

import asyncio

from sagellm_control.wire.states import EngineState

from .adapters.base import EngineAdapter
from .lease import Lease

FAILURES_TO_ERROR = 3
"""One slow answer to a probe is no outage; a probe that fails right after an attempt could not connect is."""


class HealthWatch:
    """Probes an engine and reports its state through the lease."""

    def __init__(self, adapter: EngineAdapter, lease: Lease, trouble: asyncio.Event, *, interval_s: float) -> None:
        self._adapter = adapter
        self._lease = lease
        self._trouble = trouble
        self._interval_s = interval_s

    async def run(self) -> None:
        """Probe until cancelled: every interval, and at once after trouble."""
        failures = 0
        while True:
            suspected = await self._wait()
            if await self._adapter.healthy():
                failures = 0
                self._lease.report(EngineState.READY)
            else:
                failures += 1
                if suspected or failures >= FAILURES_TO_ERROR:
                    self._lease.report(EngineState.ERROR, "it does not answer health probes")

    async def _wait(self) -> bool:
        try:
            async with asyncio.timeout(self._interval_s):
                await self._trouble.wait()
        except TimeoutError:
            return False
        self._trouble.clear()
        return True
