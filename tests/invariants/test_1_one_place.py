"""Invariant 1. One place: intake stream, waiting set, one engine's assigned stream, or the terminal state."""

from __future__ import annotations

from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.engines import retire_engine
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.states import EngineState

from ..pool_driver import LEASE_MS, PoolDriver
from ..pool_state import read_state, violations


async def assert_place(pool: PoolDriver, state: str, where: str) -> None:
    """``violations`` compares record and places; here the record is compared with what the test expects."""
    found = await read_state(pool.store, pool.keys)
    assert violations(found) == []
    assert found.records["a"]["state"] == state
    places = {"intake": found.intake["a"], "waiting": "a" in found.waiting} | {
        name: sum(work["id"] == "a" for work in engine.work) for name, engine in found.engines.items()
    }
    assert {name for name, count in places.items() if count} == ({where} if where else set())
    assert sum(places.values()) == (1 if where else 0)


async def test_one_place_all_the_way(pool: PoolDriver) -> None:
    await pool.engine("e1")
    await pool.engine("e2")
    await pool.accept("a")
    await assert_place(pool, "queued", "intake")
    taken = await pool.take("s1")
    await assert_place(pool, "queued", "intake")
    await pool.admit(pool.admission(taken.arrivals[0]))
    await assert_place(pool, "waiting", "waiting")
    await pool.assign(Move("a", 0, "e1"))
    await assert_place(pool, "assigned", "e1")
    await pool.claim("a")
    await assert_place(pool, "running", "e1")
    await pool.requeue("a", Cause.FAILED)
    await assert_place(pool, "waiting", "waiting")
    await pool.assign(Move("a", 1, "e2"))
    await pool.claim("a", 2, engine="e2")
    await assert_place(pool, "running", "e2")
    pool.clock.advance(LEASE_MS)
    await retire_engine(pool.store, pool.name, "e2", "", EngineState.ERROR, "lost")
    await assert_place(pool, "waiting", "waiting")
    await pool.engine("e2", worker="w-second")
    await pool.assign(Move("a", 2, "e2"))
    await cancel(pool.store, pool.name, "a")
    await assert_place(pool, "assigned", "e2")
    await pool.finish("a", attempt=3, engine="e2")
    await assert_place(pool, "finished", "")
