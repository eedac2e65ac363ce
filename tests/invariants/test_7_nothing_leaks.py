"""Invariant 7. Nothing leaks: room in use is what requests own; what is derived heals by itself."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.engines import register_engine, renew_engine, retire_engine
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.states import EngineState

from ..lapsed import retire_lapsed
from ..leaks import leaked_keys
from ..pool_driver import LEASE_MS, PoolDriver
from ..pool_state import read_state, violations
from ..scheduler.running import everything_is_settled, schedulers
from ..waiting import wait_until


async def test_nothing_leaks_however_attempts_end(pool: PoolDriver) -> None:
    slots = {"e1": 2, "e2": 3}
    for engine, number in slots.items():
        await pool.engine(engine, slots=number)
    async with schedulers(pool, 2):
        for n in range(40):
            await pool.accept(f"r{n}", timeout_ms=500 if n % 5 == 0 else 0)
        turn = 0

        async def end_something() -> bool:
            nonlocal turn
            state = await read_state(pool.store, pool.keys)
            assert violations(state) == []
            for name, engine in state.engines.items():
                for work in engine.work:
                    turn += 1
                    request_id, attempt = work["id"], int(work["attempt"])
                    fenced = {"attempt": attempt, "engine": name}
                    match turn % 6:
                        case 0:
                            await pool.requeue(request_id, Cause.FAILED, max_failures=2, **fenced)
                        case 1:
                            await pool.requeue(request_id, Cause.RETURNED, **fenced)
                        case 2:
                            await cancel(pool.store, pool.name, request_id)
                            await pool.finish(request_id, **fenced)
                        case 3:
                            await pool.append(request_id, **fenced)
                            await pool.requeue(request_id, Cause.LAPSED, **fenced)
                        case _:
                            await pool.finish(request_id, **fenced)
            pool.clock.advance(100)
            return all(record["state"] == "finished" for record in state.records.values())

        await wait_until(end_something)
        await wait_until(lambda: everything_is_settled(pool))
    assert [await pool.holds(engine) for engine in slots] == [set(), set()]
    assert await pool.room() == slots
    assert await leaked_keys(pool.store) == []
    for key in (pool.keys.waiting, *pool.keys.intake):
        assert await pool.store.commands.exists(key) == 0 or await pool.store.commands.xlen(key) == 0


@pytest.mark.parametrize("wrong", [None, 0, 99])
@pytest.mark.parametrize("healer", ["a renewal", "a finish", "a registration", "an assignment"])
async def test_a_wrong_note_of_the_room_heals(pool: PoolDriver, healer: str, wrong: int | None) -> None:
    row = await pool.engine(slots=4)
    await pool.running("a", "b")
    await pool.accept("c")
    taken = await pool.take()
    if wrong is None:
        await pool.store.commands.zrem(pool.keys.room, "e1")
    else:
        await pool.store.commands.zadd(pool.keys.room, {"e1": wrong})
    match healer:
        case "a renewal":
            await renew_engine(pool.store, row, [], lease_ms=LEASE_MS)
        case "a finish":
            await pool.finish("a")
        case "a registration":
            await register_engine(pool.store, row, lease_ms=LEASE_MS)
        case _:
            await pool.admit(pool.admission(taken.arrivals[0], engine="e1"))
    assert violations(await read_state(pool.store, pool.keys)) == []


async def test_a_pool_that_everybody_left_holds_nothing(pool: PoolDriver) -> None:
    for engine in ("e1", "e2"):
        await pool.engine(engine, slots=3)
    await pool.running("a", "b", "c", engine="e1")
    await pool.running("d", engine="e2")
    await retire_engine(pool.store, pool.name, "e1", "w-e1", EngineState.STOPPED, "")
    pool.clock.advance(LEASE_MS)
    await asyncio.gather(*(retire_lapsed(pool) for _ in range(3)))
    state = await read_state(pool.store, pool.keys)
    assert violations(state) == []
    assert set(state.waiting) == {"a", "b", "c", "d"}
    assert (state.room, [engine.reservations for engine in state.engines.values()]) == ({}, [set(), set()])
