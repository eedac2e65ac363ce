"""The server's clock, as a scheduler follows it: what it decides by a wrong one, the store refuses."""

from __future__ import annotations

from sagellm_control.scheduler.server_clock import ServerClock

from ..pool_driver import PoolDriver
from .running import metric, schedulers
from .test_work_conserving import until_held, until_waiting


class AheadUntilSet(ServerClock):
    """As after a step of the machine's clock."""

    ahead_ms = 30_000.0

    async def set(self) -> None:
        self.ahead_ms = 0.0

    def now_ms(self) -> float:
        return super().now_ms() + self.ahead_ms


async def test_a_clock_that_is_ahead_of_the_servers_is_set_where_the_store_disagrees(pool: PoolDriver) -> None:
    await pool.engine()
    async with schedulers(pool) as (scheduler,):
        await pool.accept("running")
        await until_held(pool, "e1", "running")
        await pool.accept("in-time", slo_ms=25_000)
        await pool.accept("next")
        await until_waiting(pool, "in-time", "next")
        scheduler.watch.clock = AheadUntilSet(scheduler.store, pool.name)
        await pool.finish("running")
        await until_held(pool, "e1", "in-time")
    assert metric(pool, "stale_decisions") == 1
