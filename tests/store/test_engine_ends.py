"""retire, drain and forget: how an engine goes."""

from __future__ import annotations

import pytest

from sagellm_control.store.inspect import engine_rows, list_pools, model_index
from sagellm_control.store.registrations import register
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.engines import Retired, drain_engine, remove_engine, retire_engine
from sagellm_control.store.views import list_engines
from sagellm_control.wire.registration import Registration
from sagellm_control.wire.states import EngineState

from ..lapsed import lapsed_leases
from ..leaks import leaked_keys
from ..pool_driver import LEASE_MS, PoolDriver


async def retire(pool: PoolDriver, worker: str) -> Retired | None:
    return await retire_engine(pool.store, pool.name, "e1", worker, EngineState.STOPPED, "why")


@pytest.mark.parametrize(
    ("worker", "lapsed", "retired"),
    [
        ("w-e1", False, True),
        ("w-e1", True, True),
        ("", True, True),
        ("", False, False),
        ("w-other", False, False),
        ("w-other", True, False),
    ],
    ids=["itself", "itself, late", "a keeper", "a keeper, too early", "another", "another, lapsed"],
)
async def test_who_may_retire_an_engine(pool: PoolDriver, worker: str, lapsed: bool, retired: bool) -> None:
    await pool.engine(slots=2)
    await pool.running("a")
    if lapsed:
        pool.clock.advance(LEASE_MS)
    assert await retire(pool, worker) == (Retired(had_holder=True, given_back=1) if retired else None)
    (row,) = await engine_rows(pool.store, pool.name, ["e1"])
    if retired:
        assert (row.worker, row.state, row.reason) == ("", EngineState.STOPPED, "why")
        assert await pool.waiting_ids() == ["a"]
        assert (await pool.holds(), await pool.room()) == (set(), {})
        assert await pool.store.commands.zscore(pool.keys.leases, "e1") is None
        assert await pool.store.commands.pttl(pool.keys.engine("e1")) > 0
    else:
        assert (row.worker, row.state) == ("w-e1", EngineState.READY)
        assert (await pool.holds(), await pool.room()) == ({"a"}, {"e1": 1})


async def test_retired_twice(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    pool.clock.advance(LEASE_MS)
    assert await retire(pool, "") == Retired(had_holder=True, given_back=1)
    assert await retire(pool, "") == Retired(had_holder=False, given_back=0)
    assert (await pool.record("a"))["lapses"] == "1"


async def test_many_requests_go_back(pool: PoolDriver) -> None:
    # More than one call of the requeue step takes.
    ids = [f"r{n:03}" for n in range(450)]
    await pool.engine(slots=len(ids))
    await pool.accept(*ids)
    taken = await pool.take(arrivals=1000)
    await pool.admit(*(pool.admission(entry, engine="e1") for entry in taken.arrivals))
    assert await retire(pool, "w-e1") == Retired(had_holder=True, given_back=len(ids))
    assert await pool.waiting_ids() == ids
    assert await pool.holds() == set()


async def test_an_engine_that_comes_back_is_kept_again(pool: PoolDriver) -> None:
    await pool.engine()
    await retire(pool, "w-e1")
    await pool.engine(worker="w-second")
    assert await pool.store.commands.pttl(pool.keys.engine("e1")) == -1
    assert await pool.room() == {"e1": 1}


@pytest.mark.parametrize("notice", [False, True], ids=["nothing left", "an unread notice"])
async def test_nothing_of_a_retired_engine_outlives_its_row(pool: PoolDriver, notice: bool) -> None:
    await pool.engine()
    await pool.running("a")
    if notice:
        await cancel(pool.store, pool.name, "a")
    await retire(pool, "w-e1")
    assert await pool.store.commands.pttl(pool.keys.engine("e1")) > 0
    await pool.store.commands.delete(pool.keys.engine("e1"))  # as its TTL does after a day
    leaked = await leaked_keys(pool.store)
    await pool.store.commands.delete(*leaked, pool.keys.engines)
    assert leaked == []


@pytest.mark.parametrize(
    ("before", "draining", "resumed"),
    [
        (EngineState.READY, EngineState.DRAINING, EngineState.READY),
        (EngineState.STARTING, EngineState.STARTING, EngineState.STARTING),
        (EngineState.ERROR, EngineState.ERROR, EngineState.ERROR),
    ],
)
async def test_drained_and_resumed(
    pool: PoolDriver, before: EngineState, draining: EngineState, resumed: EngineState
) -> None:
    await pool.engine(state=before)
    assert await drain_engine(pool.store, pool.name, "e1") == 0
    assert [row.state for row in await engine_rows(pool.store, pool.name, ["e1"])] == [draining]
    assert await pool.room() == {}
    assert await drain_engine(pool.store, pool.name, "e1", drain=False) == 0
    assert [row.state for row in await engine_rows(pool.store, pool.name, ["e1"])] == [resumed]
    assert await pool.room() == ({"e1": 1} if resumed is EngineState.READY else {})


async def test_it_is_shown_that_and_how_a_drain_is_undone(pool: PoolDriver) -> None:
    await pool.engine()
    await drain_engine(pool.store, pool.name, "e1")
    note = "drained: `sagellm-control engines drain e1 --undo` gives it requests again"
    (view,) = await list_engines(pool.store, pool.name)
    assert (view.drained, view.reason) == (True, note)
    await retire_engine(pool.store, pool.name, "e1", "w-e1", EngineState.STOPPED, "its worker was stopped")
    (view,) = await list_engines(pool.store, pool.name)
    assert (view.drained, view.reason) == (True, f"{note}; its worker was stopped")
    await drain_engine(pool.store, pool.name, "e1", drain=False)
    (view,) = await list_engines(pool.store, pool.name)
    assert (view.drained, view.reason) == (False, "its worker was stopped")


async def test_a_draining_engine_keeps_what_it_runs(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.running("a")
    assert await drain_engine(pool.store, pool.name, "e1") == 1
    assert await pool.append("a")
    assert await pool.finish("a", 2)


async def test_a_resumed_engine_is_announced_if_somebody_waits(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.waiting("a")
    await drain_engine(pool.store, pool.name, "e1")
    assert await pool.freed() == []
    await drain_engine(pool.store, pool.name, "e1", drain=False)
    assert await pool.freed() == [("e1", 1)]


async def test_an_engine_that_is_not_there_cannot_be_drained(pool: PoolDriver) -> None:
    assert await drain_engine(pool.store, pool.name, "e1") is None
    assert not await pool.store.commands.exists(pool.keys.engine("e1"))


async def test_forgotten_it_leaves_no_key(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.finish("a")
    await retire(pool, "w-e1")
    assert await remove_engine(pool.store, pool.name, "e1") == "forgotten"
    db = pool.store.commands
    for key in (pool.keys.engine("e1"), pool.keys.reservations("e1"), pool.keys.assigned("e1"), pool.keys.engines):
        assert not await db.exists(key)
    assert await lapsed_leases(pool) == []
    assert await remove_engine(pool.store, pool.name, "e1") == "forgotten"


async def test_the_names_that_it_alone_answered_to_go_with_it(pool: PoolDriver) -> None:
    await pool.engine("e1", models=(pool.name, "lora-1", "lora"))
    second = await pool.engine("e2", models=(pool.name, "lora"))
    await retire(pool, "w-e1")
    assert set(await model_index(pool.store)) == {pool.name, "lora-1", "lora"}, "it may come back"
    assert await remove_engine(pool.store, pool.name, "e1") == "forgotten"
    assert set(await model_index(pool.store)) == {pool.name, "lora"}
    await retire_engine(pool.store, pool.name, "e2", second.worker, EngineState.ERROR, "")
    assert await remove_engine(pool.store, pool.name, "e1") == "forgotten"
    assert set(await model_index(pool.store)) == {pool.name, "lora"}, "the other one is down, and not removed"
    assert await remove_engine(pool.store, pool.name, "e2") == "forgotten"
    assert await model_index(pool.store) == {}
    assert await list_pools(pool.store) == [pool.name], "what it holds is still found"


async def test_a_registered_engine_keeps_the_pools_name(pool: PoolDriver) -> None:
    await pool.engine(models=(pool.name, "lora"))
    await register(pool.store, Registration("e2", pool.name, "127.0.0.1", 1))
    await retire(pool, "w-e1")
    assert await remove_engine(pool.store, pool.name, "e1") == "forgotten"
    assert await model_index(pool.store) == {pool.name: pool.name}


async def test_an_engine_that_is_held_is_not_forgotten(pool: PoolDriver) -> None:
    await pool.engine()
    assert await remove_engine(pool.store, pool.name, "e1") == "held"
    assert await pool.room() == {"e1": 1}


async def test_an_engine_that_holds_requests_is_not_forgotten(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.store.commands.hset(pool.keys.engine("e1"), "worker", "")
    assert await remove_engine(pool.store, pool.name, "e1") == "busy"
    assert await pool.holds() == {"a"}
    await pool.store.commands.pexpire(pool.keys.engine("e1"), 1000)
