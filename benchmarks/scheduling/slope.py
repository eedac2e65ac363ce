"""How fast a count goes down, seen from outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..process import BenchmarkFailed, MeasuredProcess, cpu_s

FROM, TO = 0.1, 0.9
"""Part of the way that is timed: the start-up of the scheduler and the last, smaller batches are left out."""
LOOK_EVERY_S = 0.004
"""250 looks a second cost the server nothing that shows."""
GIVE_UP_S = 120.0


@dataclass(frozen=True, slots=True)
class Slope:
    """What one measurement gave."""

    per_s: float
    scheduler_us: float
    """CPU time of the scheduler for one request."""
    server_us: float
    """CPU time of the server for one request."""

    @property
    def us(self) -> float:
        """Time that one request takes."""
        return 1e6 / self.per_s


@dataclass(frozen=True, slots=True)
class _Look:
    left: int
    at: float
    scheduler_s: float
    server_s: float


async def watch(
    left: Callable[[], Awaitable[int]], start: int, end: int, scheduler: MeasuredProcess, server_pid: int
) -> Slope:
    """Follow a count from ``start`` down to ``end``.

    Raises:
        BenchmarkFailed: it does not get there, or the scheduler has ended.
    """
    marks = [start - (start - end) * part for part in (FROM, TO)]
    looks: list[_Look] = []
    give_up_at = time.monotonic() + GIVE_UP_S
    while (now := await left()) > end:
        if len(looks) < len(marks) and now <= marks[len(looks)]:
            looks.append(_look(now, scheduler, server_pid))
        scheduler.check()
        if time.monotonic() > give_up_at:
            raise BenchmarkFailed(f"after {GIVE_UP_S:g} s {now - end:,} of {start - end:,} requests are still there")
        await asyncio.sleep(LOOK_EVERY_S)
    while len(looks) < len(marks):
        looks.append(_look(now, scheduler, server_pid))
    first, last = looks
    moved = first.left - last.left
    if moved <= 0:
        raise BenchmarkFailed(f"{start - end} requests are too few: they were gone between two looks")
    return Slope(
        per_s=moved / (last.at - first.at),
        scheduler_us=(last.scheduler_s - first.scheduler_s) / moved * 1e6,
        server_us=(last.server_s - first.server_s) / moved * 1e6,
    )


def _look(left: int, scheduler: MeasuredProcess, server_pid: int) -> _Look:
    return _Look(left, time.monotonic(), cpu_s(scheduler.pid), cpu_s(server_pid))
