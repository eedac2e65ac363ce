"""The keeper: what a lost worker held goes back at its old rank, and the worker that wakes up changes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sagellm_control.keeper.lapses import LapseKeeper
from sagellm_control.store.inspect import engine_rows
from sagellm_control.store.steps import engines
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.engines import register_engine, renew_engine
from sagellm_control.wire.states import EngineState

from ..lapsed import retire_lapsed
from ..pool_driver import LEASE_MS, PoolDriver
from ..pool_state import read_state, violations
from ..samples import sample
from ..scheduler.running import running, schedulers
from ..waiting import wait_until


def lapses(pool: PoolDriver) -> float:
    return sample("sagellm_control_engine_lapses_total", pool=pool.name)


@pytest.fixture
def keeper(pool: PoolDriver) -> LapseKeeper:
    return LapseKeeper(pool.store, pool.name, monotonic=lambda: pool.clock.now_ms / 1000)


async def test_a_living_worker_keeps_everything(pool: PoolDriver) -> None:
    row = await pool.engine()
    await pool.running("a")
    for _ in range(5):
        pool.clock.advance(LEASE_MS - 1)
        await renew_engine(pool.store, row, [("a", 1)], lease_ms=LEASE_MS)
        assert await retire_lapsed(pool) == 0
    assert await pool.holds() == {"a"}
    assert lapses(pool) == 0


async def test_what_a_lost_worker_held_goes_back_at_its_old_rank(pool: PoolDriver) -> None:
    await pool.engine("e1", slots=4)
    await pool.running("a", "b")
    await pool.waiting("between")
    await pool.store.commands.zadd(pool.keys.waiting, {"between": float((await pool.record("a"))["rank"]) + 0.5})
    pool.clock.advance(LEASE_MS)
    assert await retire_lapsed(pool) == 2
    assert await pool.waiting_ids() == ["a", "between", "b"]
    for request_id in ("a", "b"):
        record = await pool.record(request_id)
        assert (record["lapses"], record["failures"], "excluded" in record) == ("1", "0", False)
    (row,) = await engine_rows(pool.store, pool.name, ["e1"])
    assert (row.state, row.worker, row.reason) == (EngineState.ERROR, "", "its worker's lease lapsed")
    assert (await pool.holds(), await pool.room(), await pool.assigned_entries()) == (set(), {}, [])
    assert lapses(pool) == 1


async def test_they_run_on_another_engine(pool: PoolDriver) -> None:
    await pool.engine("e1", slots=2)
    await pool.running("a", "b", engine="e1")
    async with schedulers(pool):
        row = await pool.engine("e2", slots=2)
        pool.clock.advance(LEASE_MS)
        await renew_engine(pool.store, row, [], lease_ms=LEASE_MS)
        await retire_lapsed(pool)

        async def moved() -> bool:
            return await pool.holds("e2") == {"a", "b"}

        await wait_until(moved)
    assert [(await pool.record(r))["attempt"] for r in "ab"] == ["2", "2"]


async def test_a_worker_that_wakes_up_changes_nothing_and_reaches_nobody(pool: PoolDriver) -> None:
    row = await pool.engine("e1")
    await pool.running("a", engine="e1")
    pool.clock.advance(LEASE_MS)
    await retire_lapsed(pool)
    await pool.engine("e2")
    await pool.assign(Move("a", 1, "e2"))
    assert await pool.claim("a", 2, engine="e2") == "running"
    before = await pool.record("a")
    async with pool.store.subscriber().pubsub() as listener:
        await listener.subscribe("inbox-of-a")
        await listener.get_message(timeout=5)
        assert await renew_engine(pool.store, row, [("a", 1)], lease_ms=LEASE_MS) is None
        assert await pool.claim("a", 1, engine="e1") == "lost"
        assert not await pool.append("a", 1, engine="e1")
        assert not await pool.finish("a", 2, engine="e1")
        assert await pool.requeue("a", attempt=1, engine="e1") == "lost"
        assert await listener.get_message(timeout=0.02) is None
    assert await pool.record("a") == before
    assert await pool.events("a") == []
    assert await pool.finish("a", attempt=2, engine="e2")


async def test_what_was_to_end_ends(pool: PoolDriver) -> None:
    await pool.engine(slots=4)
    await pool.running("spoke", "cancelled", "expired", timeout_ms=0)
    await pool.running("timed", timeout_ms=LEASE_MS)
    await pool.append("spoke")
    await cancel(pool.store, pool.name, "cancelled")
    pool.clock.advance(LEASE_MS)
    assert await retire_lapsed(pool) == 4
    outcomes = {r: (await pool.record(r)).get("outcome") for r in ("spoke", "cancelled", "expired", "timed")}
    assert outcomes == {"spoke": "failed", "cancelled": "cancelled", "expired": None, "timed": "expired"}
    assert await pool.waiting_ids() == ["expired"]
    assert violations(await read_state(pool.store, pool.keys)) == []


async def test_the_next_session_registers_and_takes_part(pool: PoolDriver) -> None:
    row = await pool.engine()
    pool.clock.advance(LEASE_MS)
    await retire_lapsed(pool)
    await pool.engine(worker="w-second")
    assert await retire_lapsed(pool) == 0
    await pool.assigned("a")
    assert await pool.claim("a") == "running"
    # The first is told that it is too late.
    held = await register_engine(pool.store, row, lease_ms=LEASE_MS)
    assert held is not None
    assert held.worker == "w-second"


async def test_many_keepers_do_the_work_once(pool: PoolDriver) -> None:
    await pool.engine(slots=300)
    await pool.accept(*(f"r{n}" for n in range(300)))
    taken = await pool.take(arrivals=300)
    await pool.admit(*(pool.admission(entry, engine="e1") for entry in taken.arrivals))
    pool.clock.advance(LEASE_MS)
    await asyncio.gather(*(retire_lapsed(pool) for _ in range(10)))
    state = await read_state(pool.store, pool.keys)
    assert violations(state) == []
    assert len(state.waiting) == 300
    assert {record["lapses"] for record in state.records.values()} == {"1"}
    assert await pool.counters() == {"accepted": 300, "requeued": 300}


@pytest.mark.parametrize("who", ["a keeper", "the next worker"])
async def test_one_that_dies_half_way_is_followed_by_another(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    row = await pool.engine(slots=2)
    await pool.running("a", "b")
    pool.clock.advance(LEASE_MS)

    class Killed(BaseException):
        """Stands for SIGKILL between the two steps."""

    async def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(engines, "give_back", die)
        with pytest.raises(Killed):
            await retire_lapsed(pool)
    if who == "a keeper":
        await retire_lapsed(pool)
    else:
        assert await register_engine(pool.store, replace(row, worker="w-second"), lease_ms=LEASE_MS) is None
    assert await pool.waiting_ids() == ["a", "b"]
    assert await pool.holds() == set()


async def test_a_keeper_that_runs_finds_the_lapse(pool: PoolDriver, keeper: LapseKeeper) -> None:
    await pool.engine()
    await pool.running("a")
    async with running({"keeper": keeper.run()}):
        pool.clock.advance(LEASE_MS)
        await wait_until(pool.waiting_ids)
    assert await pool.waiting_ids() == ["a"]


async def test_a_lease_that_is_renewed_after_a_stall_is_not_taken(pool: PoolDriver, keeper: LapseKeeper) -> None:
    """The server was busy with itself for longer than a lease: the renewals come right after it."""
    row = await pool.engine()
    await pool.running("a")
    pool.clock.advance(LEASE_MS + 1)
    assert await keeper.look_twice() == 0
    assert await renew_engine(pool.store, row, [("a", 1)], lease_ms=LEASE_MS) is not None
    assert await keeper.look_twice() == 0
    pool.clock.advance(LEASE_MS + 1)
    assert await keeper.look_twice() == 0
    assert await pool.state("a") == "running"
    assert await keeper.look_twice() == 1
    assert await pool.state("a") == "waiting"


@pytest.mark.parametrize("step_ms", [LEASE_MS, 3_600_000])
async def test_a_clock_that_is_set_forward_takes_nothing_from_the_living(pool: PoolDriver, step_ms: float) -> None:
    moment_s = 0.0
    keeper = LapseKeeper(pool.store, pool.name, monotonic=lambda: moment_s)
    rows = [await pool.engine(engine) for engine in ("lives", "is-lost")]
    await pool.running("a", engine="lives")
    await pool.running("b", engine="is-lost")
    assert await keeper.look_twice() == 0
    pool.clock.advance(step_ms)
    for _ in range(7):
        assert await keeper.look_twice() == 0
        pool.clock.advance(500)
        moment_s += 0.5
    assert await renew_engine(pool.store, rows[0], [("a", 1)], lease_ms=LEASE_MS) is not None
    given_back = 0
    while moment_s < LEASE_MS / 1000 + 1 and not given_back:
        pool.clock.advance(500)
        moment_s += 0.5
        given_back = await keeper.look_twice()
    assert (given_back, await pool.state("a"), await pool.state("b")) == (1, "running", "waiting")


async def test_a_slow_keeper_and_a_clock_that_is_set_back_make_no_lapse_slower(pool: PoolDriver) -> None:
    moment_s = 0.0
    keeper = LapseKeeper(pool.store, pool.name, monotonic=lambda: moment_s)
    row = await pool.engine()
    await pool.running("a")
    for server_ms, own_s in ((60_000, 60.0), (-3_600_000, 0.0), (500, 0.5)):
        assert await keeper.look_twice() == 0
        pool.clock.advance(server_ms)
        moment_s += own_s
        assert await renew_engine(pool.store, row, [("a", 1)], lease_ms=LEASE_MS) is not None
    pool.clock.advance(LEASE_MS)
    moment_s += LEASE_MS / 1000
    assert [await keeper.look_twice(), await keeper.look_twice()] == [0, 1]
