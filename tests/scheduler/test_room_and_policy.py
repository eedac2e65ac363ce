"""Schedulers at work with KV budgets, paces, objectives, affinity, and with a policy that changes meanwhile."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from sagellm_control.scheduler import reranker
from sagellm_control.scheduler.pool_policy import record_settings
from sagellm_control.scheduler.time_limits import LOOKS_APART_MS
from sagellm_control.store.connect import Store
from sagellm_control.store.steps.engines import renew_engine
from sagellm_control.store.steps.policy import PIECE, Piece, next_misranked, set_policy
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import Outcome, Reason

from ..pool_driver import LEASE_MS, PoolDriver
from ..pool_state import read_state, violations
from ..waiting import wait_until
from .running import instant_workers, metric, schedulers
from .test_work_conserving import until_held, until_waiting

PROMPT = {"prompt_tokens": 100, "max_tokens": 1}
"""About 101 KV tokens, as the answer cannot be longer."""


async def test_an_engine_that_its_pace_closed_opens_by_time(pool: PoolDriver) -> None:
    await pool.engine(slots=8, pace_tps=1000.0)
    async with schedulers(pool, sweep_s=0.2) as (scheduler,):
        await pool.accept("a", **PROMPT)
        await until_held(pool, "e1", "a")
        await pool.accept("b", **PROMPT)
        await until_waiting(pool, "b")
        assert scheduler.waiting.opens_at_ms() is not None
        pool.clock.advance(100)
        await until_held(pool, "e1", "a", "b")
    assert metric(pool, "missed_wakeups") == 0


async def test_an_engine_that_its_pace_closed_opens_also_if_the_clock_is_set_back(pool: PoolDriver) -> None:
    row = await pool.engine(slots=8, pace_tps=1000.0)
    async with schedulers(pool, sweep_s=0.05):
        await pool.accept("a", **PROMPT)
        await until_held(pool, "e1", "a")
        await pool.accept("b", **PROMPT)
        await until_waiting(pool, "b")
        pool.clock.advance(-3_600_000)
        await renew_engine(pool.store, row, [("a", 1)], lease_ms=LEASE_MS)
        pool.clock.advance(1)
        await until_held(pool, "e1", "a", "b")


async def test_an_engine_that_gets_a_pace_while_it_serves_opens_by_time_too(pool: PoolDriver) -> None:
    await pool.engine(slots=8)
    async with schedulers(pool) as (scheduler,):
        await pool.accept("a", **PROMPT)
        await until_held(pool, "e1", "a")
        await renew_engine(pool.store, replace(pool.rows["e1"], pace_tps=1000.0), [("a", 1)], lease_ms=LEASE_MS)
        await pool.accept("b", **PROMPT)  # the first that its pace is charged with
        await until_held(pool, "e1", "a", "b")
        await pool.accept("c", **PROMPT)
        await until_waiting(pool, "c")
        await wait_until(lambda: scheduler.waiting.opens_at_ms(), what="the scheduler knows when it opens")


async def test_smaller_ones_pass_one_that_does_not_fit_and_not_for_ever(pool: PoolDriver) -> None:
    await pool.engine(slots=8, kv_tokens=400)
    async with schedulers(pool):
        await pool.accept("running", prompt_tokens=300, max_tokens=1)
        await until_held(pool, "e1", "running")
        await pool.accept("large", prompt_tokens=350, max_tokens=1)
        await until_waiting(pool, "large")
        await pool.accept("small", prompt_tokens=10, max_tokens=1)
        await until_held(pool, "e1", "running", "small")
        pool.clock.advance(60_000)  # longer than its patience
        await pool.accept("late", prompt_tokens=10, max_tokens=1)
        await until_waiting(pool, "large", "late")
        await pool.finish("small")
        await until_waiting(pool, "large", "late")
        await pool.finish("running")
        await until_held(pool, "e1", "large", "late")
    assert violations(await read_state(pool.store, pool.keys)) == []


async def test_kv_room_that_came_free_is_known_before_somebody_is_left_waiting(pool: PoolDriver) -> None:
    await pool.engine(slots=8, kv_tokens=100_000)
    async with schedulers(pool):
        await pool.accept("small", prompt_tokens=1000, max_tokens=1)
        await pool.accept("large", prompt_tokens=90_000, max_tokens=1)
        await until_held(pool, "e1", "small", "large")
        await pool.accept("next", prompt_tokens=60_000, max_tokens=1)
        await until_waiting(pool, "next")
        await pool.finish("large")
        await until_held(pool, "e1", "small", "next")


async def test_an_engine_that_recovers_and_runs_nothing_takes_whatever_the_pace(pool: PoolDriver) -> None:
    await pool.engine(slots=8, limit=1, pace_tps=1.0)
    async with schedulers(pool):
        await pool.accept("a", "b", **PROMPT)
        await until_held(pool, "e1", "a")
        await until_waiting(pool, "b")
        await pool.finish("a")
        await until_held(pool, "e1", "b")


async def test_what_is_late_steps_back_behind_what_is_not(pool: PoolDriver) -> None:
    await pool.engine()
    async with schedulers(pool):
        await pool.accept("running")
        await until_held(pool, "e1", "running")
        await pool.accept("late", slo_ms=100)
        await pool.accept("in-time", slo_ms=60_000)
        await until_waiting(pool, "late", "in-time")
        pool.clock.advance(200)
        await pool.finish("running")
        await until_held(pool, "e1", "in-time")
        await until_waiting(pool, "late")
        await pool.finish("in-time")
        await until_held(pool, "e1", "late")
    assert metric(pool, "late", result="late") == 1


@pytest.mark.parametrize("by", ["request", "pool"])
async def test_what_is_late_is_refused_where_that_is_asked_for(pool: PoolDriver, by: str) -> None:
    await pool.engine()
    if by == "pool":
        await record_settings(pool.store, pool.name, {"late": "refuse"})
    async with schedulers(pool):
        await pool.accept("running")
        await until_held(pool, "e1", "running")
        await pool.accept("late", slo_ms=100, reject_late=by == "request")
        await until_waiting(pool, "late")
        pool.clock.advance(200)
        await pool.finish("running")
        await until_waiting(pool)
        ending = await pool.ending("late")
    assert (ending.outcome, ending.code) == (Outcome.REJECTED, Reason.TOO_LATE)


@pytest.mark.parametrize("by", ["request", "pool"])
async def test_what_is_to_be_refused_when_late_does_not_wait_for_an_engine(pool: PoolDriver, by: str) -> None:
    await pool.engine()
    if by == "pool":
        await record_settings(pool.store, pool.name, {"late": "refuse"})
    async with schedulers(pool):
        await pool.accept("running")
        await until_held(pool, "e1", "running")
        await pool.accept("short", slo_ms=1000, reject_late=by == "request")
        await pool.accept("hopeless", slo_ms=1000, prompt_tokens=1_000_000, reject_late=by == "request")
        await until_waiting(pool, "short", "hopeless")
        pool.clock.advance(LOOKS_APART_MS)
        await until_waiting(pool, "short")
        pool.clock.advance(2000)
        await wait_until(lambda: metric(pool, "late", result="refused") == 2, what="both are refused")
        for request_id in ("short", "hopeless"):
            ending = await pool.ending(request_id)
            assert (ending.outcome, ending.code) == (Outcome.REJECTED, Reason.TOO_LATE)
    assert violations(await read_state(pool.store, pool.keys)) == []


@pytest.mark.parametrize("reject", [True, False])
async def test_an_idle_engine_is_no_reason_to_be_served_late(pool: PoolDriver, reject: bool) -> None:
    await pool.engine(slots=2)
    async with schedulers(pool):
        for request_id in ("a", "b"):
            await pool.accept(request_id, slo_ms=100, prompt_tokens=1_000_000, reject_late=reject)
        result = "refused" if reject else "late"
        await wait_until(lambda: metric(pool, "late", result=result) == 2, what="it is judged")
        if not reject:
            await until_held(pool, "e1", "a", "b")


@pytest.mark.parametrize(
    "settings",
    [{"placement": "prefix_affinity"}, {"placement": "least_loaded", "tpot_slo_ms": "60"}],
    ids=["for the placement", "for the pace"],
)
async def test_schedulers_learn_from_one_another_where_a_prefix_is(pool: PoolDriver, settings: dict[str, str]) -> None:
    await pool.engine("e1", slots=8)
    await pool.engine("e2", slots=8)
    await record_settings(pool.store, pool.name, settings)
    prefix = ("a1", "b2", "c3")
    async with schedulers(pool, 2) as made:
        await pool.accept("first", prefix=prefix, prompt_tokens=2000)

        async def placed() -> str | None:
            return (await pool.record("first")).get("engine")

        engine = await wait_until(placed, what="it is placed")
        numbers = itertools.count()

        async def all_know() -> bool:
            # The next one with a prefix is reason enough to look, for whoever takes it; each of them takes some.
            await pool.accept(f"next-{next(numbers)}", prefix=("d4",), prompt_tokens=10)
            return all(scheduler.watch.engines.prefixes.depth(engine, prefix) == 3 for scheduler in made)

        await wait_until(all_know, what="all have looked")


async def test_fair_tenants_take_turns(pool: PoolDriver) -> None:
    await record_settings(pool.store, pool.name, {"policy": "fair"})
    await pool.engine()
    async with schedulers(pool, 3):
        await pool.accept("running")
        await until_held(pool, "e1", "running")
        for number, request_id in enumerate(("b0", "b1", "b2", "b3", "s0", "s1"), 1):
            # One after another: what is under way at the same time may overtake one another.
            await pool.accept(request_id, tenant="busy" if request_id[0] == "b" else "small", **PROMPT)
            await wait_until(lambda number=number: _waits(pool, number), what="it waits")
        await until_waiting(pool, "b0", "s0", "b1", "s1", "b2", "b3")


@pytest.mark.parametrize("count", [1, 3])
async def test_a_change_of_policy_while_requests_come_and_go(pool: PoolDriver, count: int) -> None:
    ids = [f"r{i:03d}" for i in range(600)]
    async with schedulers(pool, count, sweep_s=0.1):
        for start in range(0, 600, 100):
            urgency = RequestPriority.BACKGROUND if start % 200 else RequestPriority.HIGH
            await pool.accept(*ids[start : start + 100], priority=urgency)
        await wait_until(lambda: _waits(pool, 600), what="all wait")
        assert await pool.waiting_ids() != ids
        await record_settings(pool.store, pool.name, {"policy": "fifo"})
        await pool.accept("new-1", priority=RequestPriority.BACKGROUND)
        await record_settings(pool.store, pool.name, {"policy": "slo_aware"})
        await record_settings(pool.store, pool.name, {"policy": "fifo"})
        await pool.accept("new-2", priority=RequestPriority.CRITICAL)

        async def in_order() -> bool:
            return await pool.waiting_ids() == [*ids, "new-1", "new-2"]

        await wait_until(in_order, what="what waits is in the order of arrival")
        assert violations(await read_state(pool.store, pool.keys)) == []
        await pool.engine(slots=4)
        async with instant_workers(pool, "e1") as (answered, workers):
            await wait_until(lambda: len(answered) == 602, 30, what="all are answered")
        assert workers[0].most_held <= 4
        if count == 1:
            assert answered[:602] == [*ids, "new-1", "new-2"]


async def _waits(pool: PoolDriver, number: int) -> bool:
    return await pool.store.commands.zcard(pool.keys.waiting) == number


_COPIES = """
for i = 2, #ARGV do
  local arrived = string.format('%.3f', ARGV[1] + (i - 1) / 1000)
  redis.call('COPY', KEYS[2], KEYS[i + 1])
  redis.call('HSET', KEYS[i + 1], 'arrived_ms', arrived)
  redis.call('ZADD', KEYS[1], arrived, ARGV[i])
end
"""
"""Of one request, each a microsecond after the one before, as ``accept`` has those of a batch."""


async def test_very_many_are_ranked_anew_and_nobody_is_blocked(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = pool.store.commands
    await pool.waiting("r0", priority=RequestPriority.LOW)
    made = 20_000
    for start in range(0, made, 5000):
        names = [f"c{i}" for i in range(start, start + 5000)]
        keys = [pool.keys.waiting, pool.keys.record("r0"), *map(pool.keys.record, names)]
        await db.eval(_COPIES, len(keys), *keys, pool.clock.now_ms + start / 1000, *names)
    await pool.engine(slots=50)
    await pool.store.commands.hset(pool.keys.engine("e1"), "state", "STARTING")  # nobody is placed
    pieces: list[int] = []

    async def next_piece(store: Store, name: str, epoch: str) -> Piece | str:
        piece = await next_misranked(store, name, epoch)
        if isinstance(piece, Piece):
            pieces.append(len(piece.request_ids))
        return piece

    monkeypatch.setattr(reranker, "next_misranked", next_piece)
    async with schedulers(pool, 2, sweep_s=0.2) as made_schedulers:
        epoch = await set_policy(pool.store, pool.name, {"aging_s": "7"}, {})

        async def done() -> bool:
            cursor = await db.hget(pool.keys.reranking, "cursor")
            return cursor == b"end" and await db.hlen(pool.keys.reranking) <= 4

        await wait_until(done, 60, what="all are ranked anew")
        assert all(s.policy.epoch == epoch for s in made_schedulers)
    # What blocks the server is a step, and each deals with a few, however many wait.
    assert max(pieces) == PIECE
    first_rank = float((await pool.record("r0"))["rank"])
    ranks = await db.zrange(pool.keys.waiting, 0, -1, withscores=True)
    assert [(name.decode(), round((rank - first_rank) * 1000)) for name, rank in ranks] == [
        ("r0", 0),
        *((f"c{i}", i + 1) for i in range(made)),
    ]
    assert metric(pool, "reranked") == made + 1
