"""A record whose state is none that there is: its request is given up wherever it is, and its client is told."""

from __future__ import annotations

import pytest

from sagellm_control.keeper.reconcile import Reconciler
from sagellm_control.store.dead import list_dead
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.cancel import CancelResult, cancel
from sagellm_control.store.steps.engines import register_engine, renew_engine
from sagellm_control.store.steps.mend import census
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.states import RequestState

from ..pool_driver import LEASE_MS, PoolDriver
from ..pool_state import read_state, violations
from ..samples import sample
from ..scheduler.running import everything_is_settled, schedulers
from ..waiting import wait_until

PLACES = ("wait", "queued", "assigned", "run", "answers")
STATES = pytest.mark.parametrize("state", ["banana", "", None], ids=["unknown", "empty", "missing"])


@pytest.fixture
async def full_pool(pool: PoolDriver) -> PoolDriver:
    """A request in each place, named by it, and another that stays sound beside it; the engine is full."""
    await pool.engine("e1", slots=6)
    for request_id in ("run", "run-2", "answers"):
        await pool.running(request_id)
    assert await pool.append("answers")
    await pool.assigned("assigned", "assigned-2", "assigned-3")
    await pool.waiting("wait", "wait-2")
    await pool.accept("queued", "queued-2", tenant="team-a")
    return pool


@pytest.fixture
def keeper(pool: PoolDriver) -> Reconciler:
    return Reconciler(pool.store, pool.name, spread_s=0)


async def damage(pool: PoolDriver, request_id: str, state: str | None) -> None:
    record = pool.keys.record(request_id)
    if state is None:
        await pool.store.commands.hdel(record, "state")
    else:
        await pool.store.commands.hset(record, "state", state)


async def until_settled(pool: PoolDriver) -> None:
    async with schedulers(pool):
        await wait_until(lambda: everything_is_settled(pool))


async def is_given_up(pool: PoolDriver, request_id: str) -> None:
    """It ended once, holds nothing, and is counted."""
    ending = await pool.ending(request_id)
    assert (ending.outcome, ending.status, ending.code) == ("dead", 500, "unreadable_record")
    assert (await pool.state(request_id), (await pool.counters())["dead"]) == (RequestState.FINISHED, 1)
    (letter,) = await list_dead(pool.store, pool.name)
    assert (letter.request_id, letter.can_retry) == (request_id, True)
    assert "state" in letter.reason
    assert violations(await read_state(pool.store, pool.keys)) == []
    assert (await census(pool.store, pool.name, ["e1"])).missing == 0
    assert await pool.store.commands.pttl(pool.keys.record(request_id)) > 0
    assert sample("sagellm_control_keeper_repairs_total", pool=pool.name, kind="unreadable") == 1


async def backlog(pool: PoolDriver) -> dict[bytes, bytes]:
    return await pool.store.commands.hgetall(pool.keys.backlog)


@STATES
@pytest.mark.parametrize("place", PLACES)
async def test_it_is_given_up_wherever_it_is(
    full_pool: PoolDriver, keeper: Reconciler, place: str, state: str | None
) -> None:
    pool = full_pool
    await damage(pool, place, state)
    if place == "queued":
        await until_settled(pool)  # no keeper looks for it where a scheduler is about to
    assert await keeper.look() == 1
    await is_given_up(pool, place)
    free = int(place in ("assigned", "run", "answers"))
    assert (await pool.room(), len(await pool.freed())) == ({"e1": free}, free), "whoever waits hears of the place"
    assert await keeper.look() == 0, "once"
    # Of what waits, everything else is counted still.
    waits = {"wait": ["queued", "queued-2", "wait-2"], "queued": ["queued-2", "wait", "wait-2"]}
    left = waits.get(place, ["queued", "queued-2", "wait", "wait-2"])
    assert (await backlog(pool))[b"requests/2"] == b"%d" % len(left)


@STATES
async def test_whoever_meets_one_that_waits_leaves_it_to_the_keeper(
    pool: PoolDriver, keeper: Reconciler, state: str | None
) -> None:
    """An engine had room, and it was at the head, before a keeper came."""
    await pool.engine("e1")
    await pool.waiting("a", "b")
    await damage(pool, "a", state)
    assert (await pool.assign(Move("a", 0, "e1"), Move("b", 0, "e1"))).results == ["gone", "assigned"]
    await keeper.look()
    await is_given_up(pool, "a")
    assert await pool.state("b") == RequestState.ASSIGNED
    assert await backlog(pool) == {}


@STATES
async def test_its_worker_is_refused_and_is_told_that_it_is_lost(
    full_pool: PoolDriver, keeper: Reconciler, state: str | None
) -> None:
    pool = full_pool
    await damage(pool, "answers", state)
    assert not await pool.append("answers", 2)
    assert not await pool.finish("answers", 3)
    await keeper.look()
    await is_given_up(pool, "answers")
    events = await pool.events("answers")
    assert [(event.position, event.type) for event in events] == [((1, 1), "chunk"), ((1, 2), "end")]
    renewal = await renew_engine(pool.store, pool.rows["e1"], [("answers", 1), ("run", 1)], lease_ms=LEASE_MS)
    assert renewal is not None
    assert renewal.attempts == ["lost", "running"]


@STATES
@pytest.mark.parametrize("worker", [None, ""], ids=["its worker", "a keeper"])
async def test_whoever_gives_it_back_gives_back_its_place(
    pool: PoolDriver, keeper: Reconciler, state: str | None, worker: str | None
) -> None:
    await pool.engine("e1", slots=2)
    await pool.running("a")
    await damage(pool, "a", state)
    if worker == "":
        await pool.store.commands.hset(pool.keys.engine("e1"), "worker", "")
    assert await pool.requeue("a", Cause.LAPSED, worker=worker) == "lost"
    assert (await pool.holds(), await pool.assigned_entries()) == (set(), [])
    if worker == "":
        assert await register_engine(pool.store, pool.rows["e1"], lease_ms=LEASE_MS) is None
    await keeper.look()
    await is_given_up(pool, "a")
    assert await backlog(pool) == {}


@STATES
@pytest.mark.parametrize("place", PLACES)
async def test_a_cancellation_leaves_it_to_the_keeper(
    full_pool: PoolDriver, keeper: Reconciler, place: str, state: str | None
) -> None:
    pool = full_pool
    await damage(pool, place, state)
    assert await cancel(pool.store, pool.name, place) is CancelResult.UNKNOWN
    if place == "queued":
        await until_settled(pool)
    await keeper.look()
    await is_given_up(pool, place)


@STATES
async def test_what_had_finished_does_not_end_again(pool: PoolDriver, keeper: Reconciler, state: str | None) -> None:
    await pool.engine("e1")
    await pool.running("done")
    await pool.finish("done")
    await damage(pool, "done", state)
    await pool.store.commands.zadd(pool.keys.waiting, {"done": 1})
    await keeper.look()
    assert (await pool.state("done"), await pool.waiting_ids()) == (RequestState.FINISHED, [])
    assert [event.type for event in await pool.events("done")] == ["end"]
    assert (await pool.dead(), await pool.counters()) == ([], {"accepted": 1, "completed": 1})


async def test_it_pays_nothing_where_tenants_are_fair(pool: PoolDriver, keeper: Reconciler) -> None:
    await set_policy(pool.store, pool.name, {"policy": "fair"}, {})
    await pool.engine("e1", slots=0)
    await pool.accept("a", "b", tenant="team")
    await until_settled(pool)
    before = await pool.store.commands.zscore(pool.keys.tenants, "team")
    await damage(pool, "b", "banana")
    await keeper.look()
    assert await pool.store.commands.zscore(pool.keys.tenants, "team") < before
    assert (await backlog(pool))[b"ranked/team"] == b"1"


async def test_words_in_its_other_fields_stop_nobody(pool: PoolDriver, keeper: Reconciler) -> None:
    await pool.waiting("a", "b")
    wrong = {"state": "banana", "entry": "no entry", "attempt": "first", "priority": "soon", "keep_ms": "x"}
    await pool.store.commands.hset(pool.keys.record("a"), mapping=wrong)
    await keeper.look()
    assert (await pool.ending("a")).code == "unreadable_record"
    assert await pool.waiting_ids() == ["b"]


async def test_another_engines_place_is_given_back_first(pool: PoolDriver, keeper: Reconciler) -> None:
    """A place on e1 for one that runs on e2."""
    await pool.engine("e1", slots=2)
    await pool.engine("e2", slots=2)
    await pool.running("a", engine="e2")
    await pool.store.commands.hset(pool.keys.reservations("e1"), "a", 0)
    await damage(pool, "a", "banana")
    await keeper.look()
    assert (await pool.holds("e1"), await pool.holds("e2")) == (set(), set())
    assert await pool.assigned_entries("e2") == []
    assert (await pool.ending("a")).code == "unreadable_record"
    assert (await pool.counters())["dead"] == 1
