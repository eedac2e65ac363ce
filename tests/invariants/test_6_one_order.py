"""Invariant 6. One order: among waiting requests it is the policy's, the same for one scheduler as for ten."""

from __future__ import annotations

import random

from sagellm_control.scheduler.order import PriorityOrder, rank_of
from sagellm_control.scheduler.pool_policy import record_settings
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import read_arrival

from ..pool_driver import PoolDriver
from ..scheduler.running import everything_is_settled, instant_workers, schedulers
from ..waiting import wait_until


async def drained(pool: PoolDriver, count: int) -> tuple[list[str], list[str]]:
    """What was served in which order, and in which order the policy wants it; with so many schedulers."""
    chance = random.Random(6)
    await pool.engine(slots=2)
    await pool.running("early-1", "early-2")
    # Aging alone: with shares a class's requests rank in the order in which they were admitted.
    await record_settings(pool.store, pool.name, {"least_share": "0"})
    async with schedulers(pool, count, policy="priority", aging_s=0.05):
        ids = [f"r{n:03}" for n in range(100)]
        for request_id in ids:
            await pool.accept(request_id, priority=chance.choice(list(RequestPriority)))
        await wait_until(lambda: everything_is_settled(pool))
        # Those that started first come back, to where they were.
        for request_id in ("early-1", "early-2"):
            await pool.requeue(request_id, Cause.RETURNED)
        async with instant_workers(pool, "e1") as (answered, _):
            await wait_until(lambda: len(answered) == 102)
    order = PriorityOrder(50)
    ranks = {r: rank_of(order, read_arrival(r, await pool.record(r))) for r in ids}
    # The driver has ranked the first two by their time of arrival alone.
    ranks |= {r: float((await pool.record(r))["arrived_ms"]) for r in ("early-1", "early-2")}
    return answered, sorted(ranks, key=lambda r: (ranks[r], r))


async def test_one_order_for_one_scheduler_and_for_ten(pool: PoolDriver) -> None:
    one, wanted = await drained(pool, 1)
    assert one == wanted
    again = PoolDriver(pool.store, pool.clock, f"{pool.name}-again")
    ten, _ = await drained(again, 10)
    assert ten == one
