"""claim: the worker that holds an engine says that it runs these attempts."""

from __future__ import annotations

import pytest

from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.claim import claim
from sagellm_control.wire.states import Outcome

from ..pool_driver import PoolDriver


async def test_assigned_becomes_running(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.assigned("a")
    pool.clock.advance(7)
    assert await pool.claim("a") == "running"
    record = await pool.record("a")
    assert record["state"] == "running"
    assert float(record["started_ms"]) == pool.clock.now_ms
    assert await pool.holds() == {"a"}


async def test_it_says_since_when(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.assigned("a")
    pool.clock.advance(20)
    assert await claim(pool.store, pool.name, "e1", "w-e1", [("a", 1, 12.5)]) == ["running"]
    assert float((await pool.record("a"))["started_ms"]) == pool.clock.now_ms - 12.5


async def test_claimed_twice(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    assert await pool.claim("a") == "running"
    assert await pool.state("a") == "running"


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.EXPIRED])
async def test_one_that_is_to_be_stopped(pool: PoolDriver, outcome: Outcome) -> None:
    await pool.engine()
    await pool.assigned("a")
    await cancel(pool.store, pool.name, "a", outcome)
    assert await pool.claim("a") == outcome
    # It is still this worker's to finish.
    assert await pool.finish("a")


async def test_a_batch(pool: PoolDriver) -> None:
    await pool.engine(slots=3)
    await pool.assigned("a", "b", "c")
    await cancel(pool.store, pool.name, "b")
    attempts = [("a", 1, 0.0), ("b", 1, 0.0), ("c", 2, 0.0), ("never-heard-of", 1, 0.0)]
    results = await claim(pool.store, pool.name, "e1", "w-e1", attempts)
    assert results == ["running", "cancelled", "lost", "lost"]


async def test_nothing_to_claim(pool: PoolDriver) -> None:
    await pool.engine()
    assert await claim(pool.store, pool.name, "e1", "w-e1", []) == []
