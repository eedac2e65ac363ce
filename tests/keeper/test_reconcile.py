"""The keeper that compares what is derived with what is owned: each thing is broken by hand and repaired once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from sagellm_control.keeper import reconcile
from sagellm_control.keeper.reconcile import MOST_ENGINES, MOST_REQUESTS, UNHEARD_MS, Reconciler
from sagellm_control.store.connect import Store
from sagellm_control.store.steps.engines import renew_engine
from sagellm_control.store.steps.mend import Repair, census
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.wire.states import RequestState

from ..lapsed import retire_lapsed
from ..pool_driver import LEASE_MS, PoolDriver
from ..pool_state import read_state, violations
from ..samples import sample
from .damages import DAMAGES, assigned_to_nobody, lease_is_gone, queued_nowhere, waits_nowhere

KEEPERS = 10


def repairs(pool: PoolDriver) -> dict[str, float]:
    """What all keepers together counted."""
    counted = {kind: sample("sagellm_control_keeper_repairs_total", pool=pool.name, kind=str(kind)) for kind in Repair}
    return {str(kind): count for kind, count in counted.items() if count}


async def ten_look(pool: PoolDriver) -> None:
    """Ten keepers look at once, each with connections of its own."""
    stores = [Store(pool.store.settings, now=pool.clock) for _ in range(KEEPERS)]
    try:
        await asyncio.gather(*(Reconciler(store, pool.name, spread_s=0.05).look() for store in stores))
    finally:
        for store in stores:
            await store.close()


@pytest.fixture
def keeper(pool: PoolDriver) -> Reconciler:
    return Reconciler(pool.store, pool.name, spread_s=0)


@pytest.fixture
async def busy_pool(pool: PoolDriver) -> PoolDriver:
    """Requests in each state: two that run, one assigned, two that wait, two queued; one has finished."""
    await pool.engine("e1", slots=4)
    await pool.running("done", "run-1", "run-2")
    await pool.finish("done")
    await pool.assigned("assigned-1")
    await pool.waiting("wait-1", "wait-2")
    await pool.accept("queued-1", "queued-2", tenant="team-a", slo_ms=50)
    return pool


@pytest.mark.parametrize(("damage", "expected"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
async def test_what_is_broken_is_repaired_once(
    busy_pool: PoolDriver,
    damage: Callable[[PoolDriver], Awaitable[None]],
    expected: dict[str, float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = busy_pool
    before = {request_id: await pool.state(request_id) for request_id in ("run-1", "wait-1", "queued-1")}
    await damage(pool)
    with caplog.at_level(logging.WARNING):
        await ten_look(pool)
    # A wrong note may have been put right with the place that it was about.
    found = repairs(pool)
    assert {kind: count for kind, count in found.items() if kind in expected} == expected
    assert found.keys() - expected.keys() <= {"wrong_room"}
    assert sum(", repaired" in record.getMessage() for record in caplog.records) == sum(found.values())
    assert violations(await read_state(pool.store, pool.keys)) == []
    assert {request_id: await pool.state(request_id) for request_id in before} == before
    await ten_look(pool)
    assert repairs(pool) == found, "something was repaired again"


async def test_what_comes_back_under_another_policy_gets_a_new_rank(busy_pool: PoolDriver, keeper: Reconciler) -> None:
    pool = busy_pool
    await assigned_to_nobody(pool)
    await set_policy(pool.store, pool.name, {"policy": "lifo"}, {})
    await keeper.look()
    assert await pool.store.commands.smembers(pool.keys.misranked) == {b"assigned-1"}


async def test_what_is_sound_is_left_alone(busy_pool: PoolDriver) -> None:
    pool = busy_pool
    before = await read_state(pool.store, pool.keys)
    await ten_look(pool)
    assert repairs(pool) == {}
    assert await read_state(pool.store, pool.keys) == before


async def test_an_idle_pool_costs_nothing(pool: PoolDriver, keeper: Reconciler) -> None:
    await pool.engine()
    commands = await pool.store.node_of(pool.keys.waiting)
    await keeper.look()
    dirty = (await commands.info("persistence"))["rdb_changes_since_last_save"]
    calls = (await commands.info("stats"))["total_commands_processed"]
    for _ in range(20):
        assert await keeper.look() == 0
    after = await commands.info("stats")
    assert (await commands.info("persistence"))["rdb_changes_since_last_save"] == dirty, "it wrote something"
    # Three reads in one trip, and two scripts; inside of them 20 commands.
    assert after["total_commands_processed"] - calls <= 20 * 30


async def test_a_request_lost_from_its_intake_is_scheduled_as_if_nothing_had_been(
    busy_pool: PoolDriver, keeper: Reconciler
) -> None:
    pool = busy_pool
    before = {e.fields["id"]: e.fields for e in (await pool.take("reads-it")).arrivals}["queued-1"]
    await queued_nowhere(pool)
    assert await keeper.look() == 1
    (entry,) = (await pool.take()).arrivals
    assert before.items() <= entry.fields.items()
    assert (await pool.admit(pool.admission(entry))).results == ["waiting"]


async def test_a_request_put_back_keeps_its_rank_and_wakes_a_scheduler(pool: PoolDriver, keeper: Reconciler) -> None:
    await pool.engine("e1", slots=2)
    await pool.waiting("a", "b")
    await pool.store.commands.zrem(pool.keys.waiting, "a")
    assert await keeper.look() == 1
    assert await pool.waiting_ids() == ["a", "b"]
    assert await pool.freed() == [("e1", 2)]


async def test_a_request_that_its_worker_never_heard_of_goes_elsewhere_first(
    busy_pool: PoolDriver, keeper: Reconciler
) -> None:
    await assigned_to_nobody(busy_pool)
    await keeper.look()
    record = await busy_pool.record("assigned-1")
    assert (record["state"], record["excluded"], record["attempt"]) == ("waiting", "e1", "1")
    assert record["excluded_ms"] == busy_pool.clock()
    assert not {"engine", "entry"} & record.keys()


async def test_what_an_engine_without_a_worker_had_is_given_back(pool: PoolDriver, keeper: Reconciler) -> None:
    await pool.engine("e1", slots=2)
    await pool.running("a")
    # Its worker was lost, and its place vanished before a keeper came.
    await pool.store.commands.hset(pool.keys.engine("e1"), "worker", "")
    await pool.store.commands.expire(pool.keys.engine("e1"), 60)
    await pool.store.commands.hdel(pool.keys.reservations("e1"), "a")
    await keeper.look()
    assert repairs(pool)["ownerless"] == 1
    record = await pool.record("a")
    assert (record["state"], record["lapses"], "excluded" in record) == ("waiting", "1", False)
    assert await pool.waiting_ids() == ["a"]


async def test_an_engine_without_a_lease_lapses_unless_its_worker_lives(pool: PoolDriver, keeper: Reconciler) -> None:
    row = await pool.engine("e1")
    await pool.running("a")
    await lease_is_gone(pool)
    pool.clock.advance(10 * LEASE_MS)
    assert await retire_lapsed(pool) == 0, "nobody would ever have noticed"
    await keeper.look()
    assert await retire_lapsed(pool) == 0
    await renew_engine(pool.store, row, [("a", 1)], lease_ms=LEASE_MS)
    pool.clock.advance(LEASE_MS - 1)
    assert await retire_lapsed(pool) == 0
    await lease_is_gone(pool)
    await keeper.look()
    pool.clock.advance(2 * LEASE_MS)
    assert await retire_lapsed(pool) == 1
    assert await pool.state("a") == RequestState.WAITING


async def test_requests_expire_anywhere_in_the_waiting_set(pool: PoolDriver, keeper: Reconciler) -> None:
    """No gateway lives, and no room ever comes."""
    await pool.engine("e1", slots=1)
    await pool.running("runs")
    await pool.waiting("first")
    await pool.waiting("late", timeout_ms=1000)
    await pool.waiting("last", timeout_ms=100_000)
    assert await keeper.look() == 0
    pool.clock.advance(1000)
    await ten_look(pool)
    assert repairs(pool) == {"expired_waiting": 1}
    assert await pool.waiting_ids() == ["first", "last"]
    assert (await pool.ending("late")).code == "deadline_exceeded"
    assert (await pool.counters())["expired"] == 1


async def test_counters_that_somebody_changed_are_searched_for_once(
    busy_pool: PoolDriver, keeper: Reconciler, caplog: pytest.LogCaptureFixture
) -> None:
    pool = busy_pool
    await pool.store.commands.hincrby(pool.keys.counters, "accepted", 5)
    for _ in range(3):
        assert await keeper.look() == 0
    assert sum("searching" in record.getMessage() for record in caplog.records) == 1
    await waits_nowhere(pool)
    assert await keeper.look() == 1, "what is missing now is found all the same"


async def test_a_record_that_vanished_counts_as_ended(busy_pool: PoolDriver, keeper: Reconciler) -> None:
    pool = busy_pool
    await pool.store.commands.delete(pool.keys.record("wait-1"), pool.keys.record("run-1"))
    assert await keeper.look() >= 2
    assert (await pool.counters())["lost"] == 2
    count = await census(pool.store, pool.name, ["e1"])
    assert (count.living, count.missing) == (5, 0)


async def test_it_goes_on_where_it_was(pool: PoolDriver, keeper: Reconciler) -> None:
    """A long waiting set and many engines are looked at a part at a time."""
    commands = pool.store.commands
    await pool.engine("e-none")
    strays = {f"stray-{n}": n for n in range(2 * MOST_REQUESTS)}
    await commands.zadd(pool.keys.waiting, strays)
    looks = 0
    while await commands.zcard(pool.keys.waiting):
        found = await keeper.look()
        assert 0 < found <= 2 * MOST_REQUESTS
        looks += 1
    assert looks >= 2
    for n in range(2 * MOST_ENGINES):
        await pool.engine(f"e{n}")
        await commands.zadd(pool.keys.room, {f"e{n}": 99})
    for _ in range(4):
        await keeper.look()
    assert set((await pool.room()).values()) == {1}


async def test_every_engines_reservations_get_their_turn(
    pool: PoolDriver, keeper: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look goes no further than some reservations; the next one begins behind them."""
    monkeypatch.setattr(reconcile, "MOST_REQUESTS", 2)
    for engine in ("e1", "e2", "e3"):
        await pool.engine(engine, slots=4)
        await pool.running(f"{engine}-a", f"{engine}-b", engine=engine)
    await pool.store.commands.hset(pool.keys.reservations("e3"), "nobody", 0)
    for _ in range(2):
        await keeper.look()
        assert "nobody" in await pool.holds("e3")
    await keeper.look()
    assert await pool.holds("e3") == {"e3-a", "e3-b"}


async def test_a_round_through_what_waits_takes_no_more_looks_than_are_meant(
    pool: PoolDriver, keeper: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "MOST_REQUESTS", 10)
    monkeypatch.setattr(reconcile, "LOOKS_A_ROUND", 4)
    monkeypatch.setattr(reconcile, "PAGE_PAUSE_S", 0)
    await pool.engine(slots=0)
    ids = [f"r{n}" for n in range(400)]  # more than a server keeps in one piece
    await pool.accept(*ids)
    await pool.admit(*(pool.admission(entry) for entry in (await pool.take(arrivals=len(ids))).arrivals))
    await pool.store.commands.zadd(pool.keys.waiting, {f"stray-{n}": n for n in range(200)})
    # The first look counts the strays among what is placed; each puts right what it meets.
    assert sum([await keeper.look() for _ in range(4 + 2)]) == 200


async def test_half_of_everything_is_broken(pool: PoolDriver) -> None:
    row = await pool.engine("e1", slots=40)
    ids = [f"r{n}" for n in range(80)]
    await pool.running(*ids[:20])
    await pool.assigned(*ids[20:40])
    await pool.waiting(*ids[40:60])
    await pool.accept(*ids[60:])
    commands, keys = pool.store.commands, pool.keys
    await commands.hdel(keys.reservations("e1"), *ids[:40:2])
    await commands.zrem(keys.waiting, *ids[40:60:2])
    for request_id in ids[60::2]:
        await commands.xdel(keys.intake[2], (await pool.record(request_id))["entry"])
    for request_id in ids[20:40:4]:
        await commands.xdel(keys.assigned("e1"), (await pool.record(request_id))["entry"])
    await commands.hset(keys.reservations("e1"), mapping=dict.fromkeys(ids[41:60:2], 0))
    pool.clock.advance(UNHEARD_MS)
    await ten_look(pool)
    await ten_look(pool)
    await renew_engine(pool.store, replace(row), [], lease_ms=LEASE_MS)
    assert violations(await read_state(pool.store, pool.keys)) == []
    total = await ten_look_again(pool)
    assert total == 0


async def ten_look_again(pool: PoolDriver) -> float:
    before = sum(repairs(pool).values())
    await ten_look(pool)
    return sum(repairs(pool).values()) - before
