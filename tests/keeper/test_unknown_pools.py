"""Arrivals in pools that nobody has announced are read like any other's."""

from __future__ import annotations

import pytest

from sagellm_control.keeper import unknown_pools
from sagellm_control.keeper.unknown_pools import UnknownPoolKeeper
from sagellm_control.scheduler.process import Scheduler
from sagellm_control.scheduler.settings import SchedulerSettings
from sagellm_control.store.dead import list_dead
from sagellm_control.store.inspect import list_pools, model_index

from ..pool_driver import PoolDriver
from ..samples import sample
from ..scheduler.running import running
from ..waiting import wait_until

ROUND = 100
"""Looks in which all keys of a test's server are seen."""


async def look_at_all(pool: PoolDriver) -> list[str]:
    keeper = UnknownPoolKeeper(pool.store)
    return [name for _ in range(ROUND) for name in await keeper.look()]


async def test_what_nobody_can_read_is_buried_and_counted(pool: PoolDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown_pools, "LOOK_EVERY_S", 0.02)
    await pool.store.commands.xadd(pool.keys.intake[2], {"what": "ever"})
    await pool.accept("a")
    async with running({"scheduler": Scheduler(pool.store, SchedulerSettings()).run()}):
        (letter,) = await wait_until(lambda: list_dead(pool.store, pool.name), what="the entry is buried")
        await wait_until(lambda: pool.waiting_ids(), what="the request waits for an engine")
    assert "id" in letter.reason
    assert (await pool.counters())["garbage"] == 1
    assert await pool.waiting_ids() == ["a"]
    assert await pool.store.commands.xlen(pool.keys.intake[2]) == 0
    assert _repairs(pool) == 1
    assert await model_index(pool.store) == {}, "nobody is offered a model that no engine has"


async def test_the_repair_is_told_of_from_0_on(pool: PoolDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else Prometheus sees no increase."""
    begun = list[tuple[str, float]]()
    monkeypatch.setattr(unknown_pools.metrics, "begin", lambda name: begun.append((name, _repairs(pool))))
    await pool.accept("a")
    await look_at_all(pool)
    assert (begun, _repairs(pool)) == ([(pool.name, 0.0)], 1)


def _repairs(pool: PoolDriver) -> float:
    return sample("sagellm_control_keeper_repairs_total", pool=pool.name, kind="unknown_pool")


async def test_a_look_is_one_page_and_the_next_goes_on_behind_it(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknown_pools, "SCAN_PAGE", 5)
    for number in range(50):
        await pool.store.commands.set(pool.keys.body(f"r{number}"), "", px=60_000)
    pools = [PoolDriver(pool.store, pool.clock, name) for name in (f"{pool.name}-1", f"{pool.name} {{é%2F}}")]
    for one in pools:
        await one.accept("a")
    keeper, found = UnknownPoolKeeper(pool.store), list[str]()

    async def all_found() -> bool:
        found.extend(await keeper.look())
        return len(found) >= 2

    await wait_until(all_found, what="both pools are found")
    assert sorted(found) == sorted(one.name for one in pools) == await list_pools(pool.store)


async def test_what_is_known_is_left_alone(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.accept("a")
    assert await look_at_all(pool) == []


@pytest.mark.parametrize("kind", ["empty", "another type", "no level", "no text"])
async def test_what_is_no_intake_stream_with_arrivals_is_none(pool: PoolDriver, kind: str) -> None:
    db, key = pool.store.commands, pool.keys.intake[2]
    match kind:
        case "empty":
            await db.xadd(key, {"a": "b"})
            await db.xtrim(key, maxlen=0)
        case "another type":
            await db.set(key, "x")
        case "no level":
            key += "er"
            await db.xadd(key, {"a": "b"})
        case _:
            key = pool.store.keys.pool("a\udcff").intake[2]
            await db.xadd(key, {"a": "b"})
    assert await look_at_all(pool) == []
    assert await list_pools(pool.store) == []
    await db.delete(key)


async def test_a_server_that_is_away_costs_nothing_that_was_found(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        async def scan(self, *_: object, **__: object) -> None:
            raise ConnectionError("it is away")

    await pool.accept("a")
    there = await pool.store.servers()

    async def servers() -> list[object]:
        return [*there, Away()]

    monkeypatch.setattr(pool.store, "servers", servers)
    keeper = UnknownPoolKeeper(pool.store)
    for _ in range(ROUND):
        with pytest.raises(ConnectionError):
            await keeper.look()
    assert pool.name in await list_pools(pool.store)
