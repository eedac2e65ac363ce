"""One scheduler or ten: the same order, and never over."""

from __future__ import annotations

import asyncio
import random

import pytest

from sagellm_control.wire.priority import RequestPriority

from ..pool_driver import PoolDriver
from ..pool_state import read_state, violations
from ..waiting import wait_until
from .running import everything_is_settled, instant_workers, metric, schedulers

one_or_ten = pytest.mark.parametrize("count", [1, 10])


async def accept_mixed(pool: PoolDriver, count: int, seed: int = 1) -> list[str]:
    """Requests of all classes, the less urgent not always after the more urgent."""
    chance = random.Random(seed)
    ids = [f"r{n:03}" for n in range(count)]
    for request_id in ids:
        await pool.accept(request_id, priority=chance.choice(list(RequestPriority)))
    return ids


async def by_rank(pool: PoolDriver, ids: list[str]) -> list[str]:
    ranks = {request_id: float((await pool.record(request_id))["rank"]) for request_id in ids}
    return sorted(ids, key=lambda request_id: (ranks[request_id], request_id))


@one_or_ten
@pytest.mark.parametrize(("policy", "aging_s"), [("fifo", 60.0), ("priority", 60.0), ("priority", 0.03)])
async def test_who_waits_is_served_in_the_order_of_the_ranks(
    pool: PoolDriver, count: int, policy: str, aging_s: float
) -> None:
    await pool.engine(slots=3)
    await pool.running("busy-1", "busy-2", "busy-3")
    async with schedulers(pool, count, policy=policy, aging_s=aging_s):
        ids = await accept_mixed(pool, 120)
        await wait_until(lambda: everything_is_settled(pool))
        expected = await by_rank(pool, ids)
        if policy == "fifo":
            assert expected == ids
        async with instant_workers(pool, "e1") as (answered, (worker,)):
            await wait_until(lambda: len(answered) == 123)
    # The workers had the three that ran in their stream already.
    assert answered[3:] == expected
    assert worker.most_held <= 3
    assert metric(pool, "missed_wakeups") == 0


async def test_the_urgent_class_passes_and_the_patient_is_not_starved(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("busy")
    async with schedulers(pool, aging_s=1.0):
        await pool.accept("patient", priority=RequestPriority.BACKGROUND)  # four classes behind: 4 s of head start
        pool.clock.advance(3000)
        await pool.accept("urgent", priority=RequestPriority.CRITICAL)
        pool.clock.advance(2000)
        await pool.accept("too-late", priority=RequestPriority.CRITICAL)
        await wait_until(lambda: everything_is_settled(pool))
        assert await pool.waiting_ids() == ["urgent", "patient", "too-late"]


@one_or_ten
async def test_never_over_and_nobody_left_behind(pool: PoolDriver, count: int) -> None:
    slots = {"e1": 1, "e2": 2, "e3": 3, "e4": 8}
    for engine, number in slots.items():
        await pool.engine(engine, slots=number)
    async with schedulers(pool, count), instant_workers(pool, *slots) as (answered, workers):

        async def gateway(name: str) -> None:
            for n in range(25):
                await pool.accept(*(f"{name}-{n}-{m}" for m in range(3)))

        await asyncio.gather(*(gateway(f"g{n}") for n in range(4)))
        await wait_until(lambda: len(answered) == 300)
        await wait_until(lambda: everything_is_settled(pool))
    assert len(set(answered)) == 300
    assert all(worker.most_held <= slots[worker.engine] for worker in workers)
    assert violations(await read_state(pool.store, pool.keys)) == []
    assert await pool.counters() == {"accepted": 300, "completed": 300}
    assert await pool.room() == slots
    assert metric(pool, "missed_wakeups") == 0


@one_or_ten
async def test_without_workers_every_place_is_taken_once(pool: PoolDriver, count: int) -> None:
    slots = {f"e{n}": n for n in range(1, 8)}
    for engine, number in slots.items():
        await pool.engine(engine, slots=number)
    async with schedulers(pool, count, batch=5):
        for n in range(20):
            await pool.accept(*(f"r{n}-{m}" for m in range(4)))

        async def full() -> bool:
            return not any((await pool.room()).values()) and await everything_is_settled(pool)

        await wait_until(full)
    state = await read_state(pool.store, pool.keys)
    assert violations(state) == []
    assert {name: len(engine.reservations) for name, engine in state.engines.items()} == slots
    assert len(state.waiting) == 80 - sum(slots.values())


async def test_each_placement_serves_everybody(pool: PoolDriver) -> None:
    for engine in ("e1", "e2", "e3"):
        await pool.engine(engine, slots=2)
    async with schedulers(pool, placement="round_robin"):
        await pool.accept(*"abcdef")
        await wait_until(lambda: everything_is_settled(pool))
    assert [len(await pool.holds(engine)) for engine in ("e1", "e2", "e3")] == [2, 2, 2]
