"""The retry budget: what fails is tried again only as often as the pool can afford."""

from __future__ import annotations

import pytest

from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.requeue import Cause, Requeue, RetryBudget, requeue

from ..pool_driver import BROKEN, PoolDriver

WINDOW_MS = 10_000


async def _fail(pool: PoolDriver, budget: RetryBudget, *request_ids: str, cause: Cause = Cause.FAILED) -> list[str]:
    """Let requests run and fail, all at once; what became of each."""
    await pool.running(*request_ids)
    items = [Requeue(request_id, 1, cause, BROKEN) for request_id in request_ids]
    results = await requeue(pool.store, pool.name, "e1", "w-e1", items, budget=budget)
    await _leave(pool, *request_ids)
    return results


async def _leave(pool: PoolDriver, *request_ids: str) -> None:
    for request_id in request_ids:
        await cancel(pool.store, pool.name, request_id)


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


async def test_the_floor_and_no_more(pool: PoolDriver) -> None:
    await pool.engine(slots=3)
    # Three slots: an engine that dies takes that many with it, and each deserves another one.
    assert await _fail(pool, RetryBudget(0, 1), *_names("a", 3)) == ["waiting"] * 3
    assert await _fail(pool, RetryBudget(0, 1), "b") == ["failed"]
    assert await pool.ending("b") == BROKEN
    assert (await pool.counters())["retries_refused"] == 1
    assert await _fail(pool, RetryBudget(0, 5), *_names("c", 3)) == ["waiting", "waiting", "failed"]


async def test_the_floor_comes_back(pool: PoolDriver) -> None:
    await pool.engine()
    assert await _fail(pool, RetryBudget(0, 1), "a") == ["waiting"]
    pool.clock.advance(WINDOW_MS - 100)
    assert await _fail(pool, RetryBudget(0, 1), "b") == ["failed"]
    pool.clock.advance(100)
    assert await _fail(pool, RetryBudget(0, 1), "c") == ["waiting"]


async def test_a_share_of_what_was_accepted_of_late(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    budget = RetryBudget(0.5, 1)
    assert await _fail(pool, budget, *_names("a", 2)) == ["waiting"] * 2
    await pool.accept(*_names("traffic", 6))
    await _leave(pool, *_names("traffic", 6))
    assert await _fail(pool, budget, "b0", "b1") == ["waiting"] * 2
    # The two themselves count as well: (6 + 4) / 2 beside the floor.
    assert await _fail(pool, budget, "c0", "c1") == ["waiting"] * 2
    pool.clock.advance(3 * WINDOW_MS)
    assert await _fail(pool, budget, *_names("d", 2)) == ["waiting"] * 2
    await pool.accept("one")
    await _leave(pool, "one")
    # Of one, e, f and g the half.
    assert await _fail(pool, budget, "e") == ["waiting"]
    assert await _fail(pool, budget, "f") == ["waiting"]
    assert await _fail(pool, budget, "g") == ["failed"]


async def test_none(pool: PoolDriver) -> None:
    await pool.engine(slots=4)
    assert await _fail(pool, RetryBudget(0, 0), "a") == ["failed"]


@pytest.mark.parametrize("cause", [Cause.LAPSED, Cause.RETURNED])
async def test_a_crash_and_a_drain_are_no_failures(pool: PoolDriver, cause: Cause) -> None:
    await pool.engine()
    assert await _fail(pool, RetryBudget(0, 0), "a", cause=cause) == ["waiting"]
    assert not await pool.store.commands.exists(pool.keys.retries)
