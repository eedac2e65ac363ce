"""The cases: what a scheduler process finds when it starts, and which count is watched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sagellm_control.store.steps.policy import set_policy
from sagellm_control.wire.priority import RequestPriority

from ..process import BenchmarkFailed
from ..system import MODEL
from .pool import ADAPTER, BODY, Pool
from .slope import Slope, watch

PLENTY = 1 << 40
"""Places on all engines together: none ever fills up."""
REALLY_FILLED = 20_000
"""Of a backlog; a million by the real steps would take minutes and tell nothing more."""
OUR_OWN_LOOKS = ("xlen", "info")
"""Commands with which the progress is watched."""
RARELY = 0.005
"""Commands a request; what is run less often is start-up and sweep."""
RERANKED_FIELDS = 4
"""Of the hash that tells how far a re-ranking has come, when no piece is under way."""
LOOK_EVERY_S = 0.01
_MOST_UNEVEN = 1.5
"""Least-loaded placement keeps engines even; more than this between two of them is a fault."""


class WrongResult(BenchmarkFailed):
    """Requests did not end up where the case wants them; a rate would mean nothing."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A request's way through the waiting set: two commits."""

    admit: Slope
    """Intake stream → waiting set."""
    place: Slope
    """Waiting set → engine."""

    @property
    def us(self) -> float:
        """Time that one request takes, both commits together."""
        return self.admit.us + self.place.us


@dataclass(frozen=True, slots=True)
class Filled:
    """The waiting set was filled, by accept and admit at once."""

    per_s: float
    bytes_each: float
    """Memory of one waiting request, without its body."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """What waits was ranked anew."""

    per_s: float
    longest_ping_ms: float
    """Of those that the server answered meanwhile."""


async def direct(pool: Pool, engines: int, number: int) -> tuple[Slope, dict[str, float]]:
    """Nobody waits and there is room: arrivals go straight to an engine. Also: commands a request, by name."""
    await pool.set_engines(engines, PLENTY)
    ids = await pool.accept(number, RequestPriority.NORMAL, "direct")
    before = await pool.command_calls()
    async with pool.scheduler() as scheduler:
        slope = await watch(pool.arrivals, number, 0, scheduler, pool.server_pid)
    after = await pool.command_calls()
    await _expect(pool, assigned=number, waiting=0)
    found = await pool.assigned()
    if max(found) > _MOST_UNEVEN * min(found):
        raise WrongResult(f"the engines hold from {min(found)} to {max(found)} requests")
    await pool.forget(ids)
    calls = {name: (count - before.get(name, 0)) / number for name, count in after.items()}
    return slope, {n: round(c, 3) for n, c in calls.items() if c >= RARELY and n not in OUR_OWN_LOOKS}


async def fill(pool: Pool, number: int, *, model: str = "") -> Filled:
    """Let so many background requests wait: the first with the real accept and admit, the rest as copies of one."""
    copies = max(0, number - REALLY_FILLED)
    number -= copies
    before = await pool.used_memory()
    async with pool.scheduler() as scheduler, asyncio.TaskGroup() as tasks:
        accepted = tasks.create_task(pool.accept(number, RequestPriority.BACKGROUND, "old", model=model))
        clock = tasks.create_task(watch(_missing(pool, number), number, 0, scheduler, pool.server_pid))
    await pool.copy_waiting(accepted.result()[-1], copies, "copy")
    after = await pool.used_memory()
    return Filled(clock.result().per_s, (after - before) / (number + copies) - len(BODY))


async def queued(pool: Pool, engines: int, number: int) -> Queued:
    """More urgent requests arrive while all engines are full, and then exactly so many places come free."""
    backlog = await pool.waiting()
    await pool.set_engines(engines, 0)
    ids = await pool.accept(number, RequestPriority.CRITICAL, "urgent")
    async with pool.scheduler() as scheduler:
        admit = await watch(pool.arrivals, number, 0, scheduler, pool.server_pid)
    await _expect(pool, assigned=0, waiting=backlog + number)
    await pool.set_engines(engines, number)
    async with pool.scheduler() as scheduler:
        place = await watch(pool.waiting, backlog + number, backlog, scheduler, pool.server_pid)
    # Not one of the backlog has gone before them.
    await _expect(pool, assigned=number, waiting=backlog)
    await pool.forget(ids)
    return Queued(admit, place)


async def past_blocked(pool: Pool, engines: int, number: int) -> Slope:
    """Arrivals go to engines with room, past a backlog for an adapter of which no engine with room knows."""
    backlog = await pool.waiting()
    await pool.set_engines(engines, PLENTY)
    ids = await pool.accept(number, RequestPriority.CRITICAL, "urgent")
    async with pool.scheduler() as scheduler:
        slope = await watch(pool.arrivals, number, 0, scheduler, pool.server_pid)
    await _expect(pool, assigned=number, waiting=backlog)
    await pool.forget(ids)
    return slope


async def rerank(pool: Pool, number: int) -> Reranked:
    """The policy changes while so many wait."""
    keys, db = pool.keys, pool.store.commands
    epoch = await set_policy(pool.store, MODEL, {"policy": "fifo"}, {})
    async with pool.scheduler():
        began, longest = time.monotonic(), 0.0
        while not await _reranked(pool, epoch):
            asked = time.monotonic()
            await db.ping()
            longest = max(longest, time.monotonic() - asked)
            await asyncio.sleep(LOOK_EVERY_S)
        took_s = time.monotonic() - began
    left = await db.zcard(keys.waiting)
    if left != number:
        raise WrongResult(f"{left} wait after they were ranked anew, not {number}")
    return Reranked(number / took_s, longest * 1000)


async def _reranked(pool: Pool, epoch: str) -> bool:
    keys, db = pool.keys, pool.store.commands
    of, cursor = await db.hmget(keys.reranking, "epoch", "cursor")
    return (of, cursor) == (epoch.encode(), b"end") and await db.hlen(keys.reranking) <= RERANKED_FIELDS


async def block(pool: Pool, number: int) -> None:
    """Let requests wait for an adapter that only one engine has, which is full."""
    await pool.set_engines(1, 0, name="adapted", models=(MODEL, ADAPTER))
    await fill(pool, number, model=ADAPTER)


def _missing(pool: Pool, number: int) -> Callable[[], Awaitable[int]]:
    async def missing() -> int:
        return number - await pool.waiting()

    return missing


async def _expect(pool: Pool, *, assigned: int, waiting: int) -> None:
    found = await pool.assigned()
    if (sum(found), await pool.waiting()) != (assigned, waiting):
        raise WrongResult(f"{sum(found)} are assigned and {await pool.waiting()} wait, not {assigned} and {waiting}")
