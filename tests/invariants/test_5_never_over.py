"""Invariant 5. Never over: no engine holds more requests than its slots and its prefetch, nor more KV tokens than its
budget, and none is started faster than its pace."""

from __future__ import annotations

import asyncio

from sagellm_control.store.steps.assign import Move

from ..pool_driver import PoolDriver
from ..pool_state import over_capacity, over_kv_budget, read_state, violations
from ..scheduler.running import instant_workers, running, schedulers
from ..waiting import wait_until

SLOTS = {"e1": 1, "e2": 2, "e3": 5}


async def test_never_over_with_ten_schedulers_at_any_moment(pool: PoolDriver) -> None:
    for engine, number in SLOTS.items():
        await pool.engine(engine, slots=number, prefetch=1)
    looks = 0

    async def watch() -> None:
        nonlocal looks
        while True:
            assert over_capacity(await read_state(pool.store, pool.keys)) == []
            looks += 1

    async with schedulers(pool, 10), instant_workers(pool, *SLOTS) as (answered, _), running({"watch": watch()}):
        for n in range(30):
            await pool.accept(*(f"r{n}-{m}" for m in range(8)))
        await wait_until(lambda: len(answered) == 240)
    assert looks > 5


async def test_never_over_kv_tokens_and_pace_with_ten_schedulers(pool: PoolDriver) -> None:
    budgets = {"e1": 300, "e2": 1000}
    for engine, tokens in budgets.items():
        await pool.engine(engine, slots=16, kv_tokens=tokens)
    await pool.engine("paced", slots=16, pace_tps=1000.0)
    looks = 0

    async def watch() -> None:
        nonlocal looks
        while True:
            state = await read_state(pool.store, pool.keys)
            assert over_capacity(state) + over_kv_budget(state) == []
            # The clock stands still, so an engine with a pace has one request, or all of them while it was idle.
            assert len(state.engines["paced"].reservations) <= 1
            looks += 1

    async with (
        schedulers(pool, 10),
        instant_workers(pool, *budgets, "paced") as (answered, _),
        running({"watch": watch()}),
    ):
        for n in range(20):
            await pool.accept(*(f"r{n}-{m}" for m in range(8)), prompt_tokens=90 + n, max_tokens=10)
        await wait_until(lambda: len(answered) == 160)
    assert looks > 5
    assert violations(await read_state(pool.store, pool.keys)) == []


async def test_never_over_when_everybody_chooses_the_same_engine(pool: PoolDriver) -> None:
    await pool.engine(slots=3)
    ids = [f"r{n}" for n in range(20)]
    await pool.waiting(*ids)
    # Twenty schedulers that all saw an empty engine and the same head.
    await asyncio.gather(*(pool.assign(*(Move(r, 0, "e1") for r in ids[:5])) for _ in range(20)))
    assert await pool.holds() == set(ids[:3])
    await pool.engine(slots=1)  # it comes back smaller than it was
    await pool.assign(Move(ids[3], 0, "e1"))
    await pool.finish(ids[0])
    await pool.assign(Move(ids[3], 0, "e1"))
    assert await pool.holds() == set(ids[1:3])
