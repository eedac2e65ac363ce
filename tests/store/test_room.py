"""Room is slots, KV tokens and pace: checked and charged by the commit, given back by the end of a request."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sagellm_control.store.inspect import room
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.engines import renew_engine
from sagellm_control.store.steps.requeue import Cause

from ..clock import START_MS
from ..pool_driver import LEASE_MS, PoolDriver


async def kv_held(pool: PoolDriver, engine: str = "e1") -> int:
    return int(await pool.store.commands.hget(pool.keys.engine(engine), "kv_held") or 0)


async def place(pool: PoolDriver, request_id: str, *, kv: int = 0, uncached: int = 0) -> str:
    """Wait and be placed on e1."""
    await pool.waiting(request_id)
    return (await pool.assign(Move(request_id, 0, "e1", kv, uncached))).results[0]


async def renew(pool: PoolDriver, **changes: object) -> None:
    row = replace(pool.rows["e1"], **changes)  # pyright: ignore[reportArgumentType]
    pool.rows["e1"] = row
    await renew_engine(pool.store, row, [], lease_ms=LEASE_MS)


async def test_kv_tokens_are_held_and_given_back(pool: PoolDriver) -> None:
    await pool.engine(slots=8, kv_tokens=1000)
    assert await place(pool, "a", kv=600) == "assigned"
    assert await place(pool, "b", kv=300) == "assigned"
    assert await kv_held(pool) == 900
    assert await pool.finish("a")
    assert (await kv_held(pool), await pool.holds()) == (300, {"b"})
    assert await pool.requeue("b", Cause.RETURNED) == "waiting"
    assert await kv_held(pool) == 0


async def test_what_does_not_fit_in_the_kv_budget_is_not_placed(pool: PoolDriver) -> None:
    await pool.engine(slots=8, kv_tokens=1000)
    await place(pool, "a", kv=600)
    assert await place(pool, "b", kv=401) == "stale"
    assert (await pool.state("b"), await kv_held(pool)) == ("waiting", 600)
    assert (await pool.assign(Move("b", 0, "e1", 400))).results == ["assigned"]


async def test_an_idle_engine_takes_one_however_large(pool: PoolDriver) -> None:
    await pool.engine(slots=8, kv_tokens=1000)
    assert await place(pool, "a", kv=5000) == "assigned"
    assert await pool.room() == {"e1": 0}  # over-full, so not for anybody else
    await pool.finish("a")
    assert await pool.room() == {"e1": 8}


async def test_admit_checks_the_kv_budget_too(pool: PoolDriver) -> None:
    await pool.engine(slots=8, kv_tokens=1000)
    await pool.accept("a", "b")
    admissions = [pool.admission(entry, engine="e1") for entry in (await pool.take()).arrivals]
    for admission in admissions:
        admission.kv_tokens = 600
    admitted = await pool.admit(*admissions)
    assert admitted.results == ["assigned", "waiting"]
    note = admitted.room.notes["e1"]
    assert (note.free, note.kv_held) == (7, 600)


@pytest.mark.parametrize("wrong", [-700, 0, 12_345])
async def test_a_wrong_sum_of_kv_tokens_heals_with_the_next_renewal(pool: PoolDriver, wrong: int) -> None:
    await pool.engine(slots=8, kv_tokens=1000)
    await place(pool, "a", kv=600)
    await pool.store.commands.hset(pool.keys.engine("e1"), "kv_held", wrong)
    await renew(pool)
    assert await kv_held(pool) == 600


async def test_without_a_budget_nothing_is_counted(pool: PoolDriver) -> None:
    await pool.engine(slots=8)
    await place(pool, "a", kv=10**9)
    assert await pool.store.commands.hget(pool.keys.engine("e1"), "kv_held") is None
    assert await place(pool, "b", kv=10**9) == "assigned"


async def test_a_pace_closes_an_engine_that_runs_something(pool: PoolDriver) -> None:
    await pool.engine(slots=8, pace_tps=1000.0)
    assert await place(pool, "a", uncached=500) == "assigned"  # 500 ms of pace
    opens_at = pool.clock.now_ms + 500
    assert await pool.store.commands.zscore(pool.keys.room, "e1") == -opens_at
    note = (await room(pool.store, pool.name))["e1"]
    assert (note.free, note.paced_until_ms) == (1, opens_at)
    assert await place(pool, "b", uncached=100) == "stale"  # a millisecond later
    pool.clock.advance(500)
    done = await pool.assign(Move("b", 0, "e1", 0, 100))
    assert done.results == ["assigned"]
    assert done.room.notes["e1"].paced_until_ms == pool.clock.now_ms + 100


async def test_a_pace_does_not_keep_an_idle_engine_closed(pool: PoolDriver) -> None:
    await pool.engine(slots=8, pace_tps=1.0)
    await place(pool, "a", uncached=100_000)
    await pool.waiting("b")
    await pool.finish("a")
    assert await pool.room() == {"e1": 8}
    assert await pool.freed() == [("e1", 8)]
    assert (await pool.assign(Move("b", 0, "e1", 0, 100_000))).results == ["assigned"]


async def test_a_pace_is_charged_once_each(pool: PoolDriver) -> None:
    # GCRA: what is paced does not save up while it is idle, and owes what it was given.
    await pool.engine(slots=8, pace_tps=1000.0)
    await pool.accept("a", "b")
    admissions = [pool.admission(entry, engine="e1") for entry in (await pool.take()).arrivals]
    for admission in admissions:
        admission.uncached_tokens = 200
    assert (await pool.admit(*admissions)).results == ["assigned", "waiting"]
    until = float(await pool.store.commands.hget(pool.keys.engine("e1"), "paced_until_ms"))
    assert until == pool.clock.now_ms + 200


async def test_a_raised_pace_is_announced_by_the_renewal(pool: PoolDriver) -> None:
    await pool.engine(slots=8, pace_tps=1.0)
    await place(pool, "a", uncached=100_000)
    await pool.waiting("b")
    await renew(pool, pace_tps=0.0)
    assert await pool.freed() == [("e1", 7)]
    assert await pool.room() == {"e1": 7}


async def test_a_clock_that_is_set_back_keeps_nothing_closed(pool: PoolDriver) -> None:
    await pool.engine(slots=8, pace_tps=1000.0)
    await place(pool, "a", uncached=500)
    await pool.waiting("b")
    await renew(pool)
    assert (await pool.assign(Move("b", 0, "e1", 0, 100))).results == ["stale"]
    pool.clock.advance(-3_600_000)
    assert (await pool.assign(Move("b", 0, "e1", 0, 100))).results == ["stale"]
    await renew(pool)
    pool.clock.advance(1)
    assert (await room(pool.store, pool.name))["e1"].paced_until_ms == pool.clock.now_ms
    done = await pool.assign(Move("b", 0, "e1", 0, 100))
    assert done.results == ["assigned"]
    assert done.room.notes["e1"].paced_until_ms == pool.clock.now_ms + 100


async def test_an_engines_row_shows_what_its_worker_learned(pool: PoolDriver) -> None:
    await pool.engine(slots=8, kv_tokens=1000)
    await renew(pool, pace_tps=1234.5)
    row = await pool.store.commands.hgetall(pool.keys.engine("e1"))
    assert (row[b"pace_tps"], row[b"kv_tokens"], row[b"prefill_tps"]) == (b"1234.5", b"1000", b"8000.0")


def test_the_clock_starts_in_this_century() -> None:
    assert START_MS > 1e9  # a time in the room is told from places by its size
