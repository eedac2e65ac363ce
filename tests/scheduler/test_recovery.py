"""What happens when a scheduler dies, or when the server loses what schedulers rely on."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_control.scheduler.process import Scheduler
from sagellm_control.scheduler.settings import SchedulerSettings
from sagellm_control.store.steps.engines import retire_engine
from sagellm_control.wire.keys import SCHEDULER_GROUP
from sagellm_control.wire.states import EngineState

from ..pool_driver import PoolDriver
from ..pool_state import read_state, violations
from ..waiting import wait_until
from .running import everything_is_settled, metric, schedulers

QUICK = {"sweep_s": 0.02, "reclaim_idle_s": 0.01}


async def pending(pool: PoolDriver) -> int:
    streams = (*pool.keys.intake, pool.keys.freed)
    return sum([(await pool.store.commands.xpending(s, SCHEDULER_GROUP))["pending"] for s in streams])


async def test_one_that_died_between_reading_and_admitting(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.accept("a", "b", "c")
    assert len((await pool.take("dead")).arrivals) == 3
    async with schedulers(pool, **QUICK):
        await wait_until(lambda: everything_is_settled(pool))
    assert await pool.holds() == {"a", "b"}
    assert await pool.waiting_ids() == ["c"]
    assert await pending(pool) == 0
    assert metric(pool, "reclaimed") == 3


async def test_one_that_died_with_an_announcement_in_its_hands(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("busy")
    await pool.waiting("a")
    await pool.finish("busy")
    assert len((await pool.take("dead")).freed) == 1
    async with schedulers(pool, **QUICK):
        await wait_until(lambda: pool.holds())
        await wait_until(lambda: everything_is_settled(pool))
    assert await pool.holds() == {"a"}
    assert await pending(pool) == 0


async def test_one_that_died_after_admitting(pool: PoolDriver) -> None:
    # It told nobody that they wait; the sweep sees them.
    await pool.engine()
    await pool.waiting("a")
    async with schedulers(pool, **QUICK):
        await wait_until(lambda: pool.holds())


async def test_what_a_living_one_is_at_is_left_to_it(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.accept("a")
    await pool.take("slow")
    async with schedulers(pool, sweep_s=0.01, reclaim_idle_s=600):
        await pool.accept("b")
        await wait_until(lambda: pool.holds())
    assert await pool.holds() == {"b"}
    assert await pool.state("a") == "queued"


async def test_a_slow_one_that_comes_back_changes_nothing(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.accept("a")
    taken = await pool.take("slow")
    async with schedulers(pool, **QUICK):
        await wait_until(lambda: pool.holds())
        before = await pool.record("a")
        assert (await pool.admit(pool.admission(taken.arrivals[0], engine="e1"))).results == ["gone"]
        assert await pool.record("a") == before
    assert violations(await read_state(pool.store, pool.keys)) == []


async def test_very_many_that_died_left_very_much(pool: PoolDriver) -> None:
    # More than Lua unpacks at once (about 8,000).
    count = 9000
    for start in range(0, count, 1000):
        await pool.accept(*(f"r{n}" for n in range(start, start + 1000)))
        await pool.take(f"dead-{start}", arrivals=1000)
    async with schedulers(pool, **QUICK):
        await wait_until(lambda: everything_is_settled(pool))
    assert await pool.store.commands.zcard(pool.keys.waiting) == count
    assert await pending(pool) == 0


async def test_one_that_leaves_is_no_consumer_any_more(pool: PoolDriver) -> None:
    await pool.engine()

    async def both_wait() -> bool:
        clients = await (await pool.store.node_of(pool.keys.waiting)).client_list()
        return sum(c["cmd"] == "xreadgroup" and "b" in c["flags"] for c in clients) == 2

    async with schedulers(pool, 2):
        await pool.accept("a")
        await wait_until(lambda: pool.holds())
        await wait_until(both_wait)
    for stream in (*pool.keys.intake, pool.keys.freed):
        assert await pool.store.commands.xinfo_consumers(stream, SCHEDULER_GROUP) == []


async def test_a_server_that_forgets_its_scripts(pool: PoolDriver) -> None:
    await pool.engine(slots=20)
    async with schedulers(pool):
        for n in range(10):
            await (await pool.store.node_of(pool.keys.waiting)).script_flush()
            await pool.accept(f"r{n}")
            await (await pool.store.node_of(pool.keys.waiting)).script_flush()
        await wait_until(lambda: everything_is_settled(pool))
    assert len(await pool.holds()) == 10


@pytest.mark.parametrize("wrong", [0, 99])
async def test_a_wrong_note_of_the_room_holds_nobody_up(pool: PoolDriver, wrong: int) -> None:
    await pool.engine("e1")
    await pool.running("busy", engine="e1")
    await pool.store.commands.zadd(pool.keys.room, {"e1": wrong})
    async with schedulers(pool):
        await pool.accept("a")
        await wait_until(pool.waiting_ids)
        await pool.accept("next")
        await wait_until(lambda: everything_is_settled(pool), what="the scheduler goes on")
        assert metric(pool, "stale_decisions") < 10
        await pool.engine("e2")
        await wait_until(lambda: pool.holds("e2"))
        await pool.finish("busy", engine="e1")
        await wait_until(lambda: pool.holds("e1"))


@pytest.mark.parametrize("lost", ["the groups", "the connections"])
async def test_a_process_goes_on_when_the_server_loses(pool: PoolDriver, lost: str) -> None:
    await pool.engine(slots=5)
    process = Scheduler(pool.store, SchedulerSettings(sweep_s=0.05))
    task = asyncio.create_task(process.run())
    try:
        await pool.accept("a")
        await wait_until(lambda: pool.holds())
        if lost == "the groups":
            for stream in (*pool.keys.intake, pool.keys.freed):
                await pool.store.commands.xgroup_destroy(stream, SCHEDULER_GROUP)
        else:
            server = await pool.store.node_of(pool.keys.waiting)
            own = await server.client_id()
            for client in await server.client_list(_type="normal"):
                if client["cmd"] == "xreadgroup" and int(client["id"]) != own:
                    await server.client_kill_filter(_id=client["id"])
        await pool.accept("b")

        async def both() -> bool:
            return await pool.holds() == {"a", "b"}

        await wait_until(both)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_process_finds_pools_that_come_later_and_keeps_their_leases(pool: PoolDriver) -> None:
    process = Scheduler(pool.store, SchedulerSettings())
    task = asyncio.create_task(process.run())
    try:
        await pool.engine("e1")
        await pool.engine("e2")
        await retire_engine(pool.store, pool.name, "e2", "w-e2", EngineState.STOPPED, "")
        await pool.accept("a")
        await wait_until(lambda: pool.holds("e1"))
        await pool.engine("e2", worker="w-second")
        pool.clock.advance(9000)
        await pool.engine("e2", worker="w-second")
        pool.clock.advance(5000)  # the lease of e1 has lapsed, that of e2 has not
        await wait_until(lambda: pool.holds("e2"))
        assert await pool.holds("e2") == {"a"}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
