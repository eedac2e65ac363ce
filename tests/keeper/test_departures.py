"""Engines and pools that are gone leave nothing behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sagellm_control.keeper import departures
from sagellm_control.keeper.departures import DepartureKeeper
from sagellm_control.scheduler import process
from sagellm_control.scheduler.settings import SchedulerSettings
from sagellm_control.store.connect import Store
from sagellm_control.store.dead import drop_dead, list_dead
from sagellm_control.store.inspect import list_pools, model_index
from sagellm_control.store.steps import pools
from sagellm_control.store.steps.condemn import condemn
from sagellm_control.store.steps.engines import remove_engine, retire_engine
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.store.steps.pools import DEAD_KEPT_MS, announce, forget_pool
from sagellm_control.store.steps.take import reclaim
from sagellm_control.store.wake import HELD_FOR_S, hold_for_pools
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.keys import SCHEDULER_GROUP
from sagellm_control.wire.states import EngineState

from ..leaks import namespace_keys
from ..pool_driver import PoolDriver
from ..scheduler.running import running
from ..waiting import wait_until


async def gone(pool: PoolDriver, engine: str = "e1") -> None:
    """The engine was stopped, and its row has expired."""
    await retire_engine(pool.store, pool.name, engine, f"w-{engine}", EngineState.STOPPED, "")
    await pool.store.commands.delete(pool.keys.engine(engine))


async def test_an_engine_whose_row_has_expired_is_forgotten(pool: PoolDriver) -> None:
    await pool.engine("e1")
    await pool.engine("e2")
    await gone(pool)
    await DepartureKeeper(pool.store, pool.name).look()
    assert await pool.store.commands.smembers(pool.keys.engines) == {b"e2"}
    assert not await pool.store.commands.exists(pool.keys.assigned("e1"))
    assert await list_pools(pool.store) == [pool.name]


async def test_a_pool_goes_with_its_last_engine(pool: PoolDriver) -> None:
    await pool.engine()
    await gone(pool)
    await DepartureKeeper(pool.store, pool.name).look()
    assert await list_pools(pool.store) == []
    assert await model_index(pool.store) == {}
    assert await namespace_keys(pool.store) == []


async def test_the_settings_that_somebody_chose_outlast_their_pool(pool: PoolDriver) -> None:
    await pool.engine()
    epoch = await set_policy(pool.store, pool.name, {"policy": "fair"}, {})
    await gone(pool)
    await DepartureKeeper(pool.store, pool.name).look()
    assert await list_pools(pool.store) == []
    settings = await pool.store.commands.hgetall(pool.keys.settings)
    assert settings == {b"policy": b"fair", b"epoch": epoch.encode()}


async def test_a_pool_in_which_somebody_waits_stays(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.waiting("a")
    await gone(pool)
    await DepartureKeeper(pool.store, pool.name).look()
    assert await list_pools(pool.store) == [pool.name]
    assert await pool.waiting_ids() == ["a"]


async def test_a_pool_for_which_gateways_hold_requests_stays_until_a_day_after_them(pool: PoolDriver) -> None:
    await pool.engine(models=("alias",))
    await hold_for_pools(pool.store)
    await gone(pool)
    await DepartureKeeper(pool.store, pool.name).look()
    assert await list_pools(pool.store) == [pool.name]
    assert await model_index(pool.store) == {pool.name: pool.name, "alias": pool.name}
    assert HELD_FOR_S - 60 <= await pool.store.commands.ttl(pool.keys.holding) <= HELD_FOR_S
    await pool.store.commands.delete(pool.keys.holding)
    await DepartureKeeper(pool.store, pool.name).look()
    assert await list_pools(pool.store) == []


async def test_a_pool_that_gave_up_a_request_is_known_for_another_week(pool: PoolDriver) -> None:
    await pool.engine()
    seconds, _ = await (await pool.store.node_of(pool.keys.dead)).time()
    await pool.store.commands.xadd(pool.keys.dead, {"reason": "old"}, id=f"{1000 * seconds - DEAD_KEPT_MS - 1000}-0")
    await pool.waiting("poison")
    await condemn(pool.store, pool.name, "poison", "no worker survives it")
    await gone(pool)
    await DepartureKeeper(pool.store, pool.name).look()
    assert [letter.request_id for letter in await list_dead(pool.store)] == ["poison", ""]
    assert await model_index(pool.store) == {}
    # Its engine comes and goes again, and nothing that it gave up has gone with it.
    await pool.engine()
    assert await pool.store.commands.ttl(pool.keys.dead) == -1
    await gone(pool)
    await drop_dead(pool.store, (await list_dead(pool.store))[:1])
    await DepartureKeeper(pool.store, pool.name).look()
    assert await list_pools(pool.store) == []
    assert not await pool.store.commands.exists(pool.keys.dead)


async def test_names_that_a_removal_had_to_leave(pool: PoolDriver) -> None:
    await pool.engine("e1", models=(pool.name, "lora"))
    await pool.engine("e2", models=(pool.name,))
    await hold_for_pools(pool.store)
    await gone(pool)
    assert await remove_engine(pool.store, pool.name, "e1") == "forgotten"
    await DepartureKeeper(pool.store, pool.name).look()
    assert set(await model_index(pool.store)) == {pool.name, "lora"}, "an engine may be started for it"
    await pool.store.commands.delete(pool.keys.holding)  # it has expired
    await DepartureKeeper(pool.store, pool.name).look()
    assert set(await model_index(pool.store)) == {pool.name}


async def test_an_engine_that_was_stopped_today_is_still_shown(pool: PoolDriver) -> None:
    await pool.engine()
    await retire_engine(pool.store, pool.name, "e1", "w-e1", EngineState.STOPPED, "")
    await DepartureKeeper(pool.store, pool.name).look()
    assert await pool.store.commands.exists(pool.keys.engine("e1"))
    assert await list_pools(pool.store) == [pool.name]


async def test_a_scheduler_that_is_long_gone_leaves_its_group(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pool.engine()
    await pool.take("gone")
    await pool.take("here")
    monkeypatch.setattr(departures, "CONSUMER_KEPT_MS", 0)
    await DepartureKeeper(pool.store, pool.name).look()
    for stream in (*pool.keys.intake, pool.keys.freed):
        assert await pool.store.commands.xinfo_consumers(stream, SCHEDULER_GROUP) == []


async def test_what_a_gone_scheduler_had_read_is_kept_for_another(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pool.engine()
    await pool.accept("a")
    await pool.take("gone")
    monkeypatch.setattr(departures, "CONSUMER_KEPT_MS", 0)
    await DepartureKeeper(pool.store, pool.name).look()
    taken = await reclaim(pool.store, pool.keys, "here", idle_ms=0)
    assert [entry.fields["id"] for entry in taken.arrivals] == ["a"]


async def test_a_scheduler_does_not_bring_a_forgotten_pool_back(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds its streams gone; were it to make them again, they would stay for ever."""
    monkeypatch.setattr(process, "RETRY_S", 0.01)
    await pool.engine()
    async with running({"scheduler": process.Scheduler(pool.store, SchedulerSettings()).run()}):
        scheduling = f"schedule {pool.name}"
        await wait_until(lambda: pool.store.commands.exists(pool.keys.freed), what="the pool is scheduled")
        monkeypatch.setattr(process, "LOOK_EVERY_S", 60)
        await wait_until(lambda: scheduling in task_names())
        await gone(pool)
        await remove_engine(pool.store, pool.name, "e1")
        assert await forget_pool(pool.store, pool.name)
        await wait_until(lambda: scheduling not in task_names(), what="it is not scheduled any more")
        assert await namespace_keys(pool.store) == []


def task_names() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()}


async def test_a_name_that_is_announced_meanwhile_is_kept(pool: PoolDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    row, real = await pool.engine(models=("old",)), pools.engine_rows

    async def then_announced(store: Store, name: str, engines: list[str]) -> list[EngineRow]:
        rows = await real(store, name, engines)
        await announce(store, replace(row, models=("old", "new")))
        return rows

    monkeypatch.setattr(pools, "engine_rows", then_announced)
    await DepartureKeeper(pool.store, pool.name).look()
    assert set(await model_index(pool.store)) == {pool.name, "old", "new"}
