"""A scheduler alone: no request waits while an engine that may take it has room, and no sweep is needed for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sagellm_control.scheduler import open_engines
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.engines import drain_engine, renew_engine, retire_engine
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.states import EngineState

from ..pool_driver import LEASE_MS, PoolDriver
from ..pool_state import read_state, violations
from ..waiting import wait_until
from .running import everything_is_settled, metric, schedulers


async def until_held(pool: PoolDriver, engine: str, *request_ids: str) -> None:
    async def held() -> bool:
        return await pool.holds(engine) == set(request_ids)

    await wait_until(held, what=f"{engine} holds {request_ids}")
    assert violations(await read_state(pool.store, pool.keys)) == []


async def until_waiting(pool: PoolDriver, *request_ids: str) -> None:
    async def so() -> bool:
        # In this order: what is still to be admitted when the line is read would be missed.
        return await everything_is_settled(pool) and await pool.waiting_ids() == list(request_ids)

    await wait_until(so, what=f"{request_ids} wait")
    assert violations(await read_state(pool.store, pool.keys)) == []


async def is_on(pool: PoolDriver, request_id: str, engine: str) -> bool:
    return request_id in await pool.holds(engine)


async def test_an_arrival_goes_straight_to_an_idle_engine(pool: PoolDriver) -> None:
    await pool.engine()
    async with schedulers(pool):
        await pool.accept("a")
        await until_held(pool, "e1", "a")
    assert metric(pool, "admitted", result="assigned") == 1
    assert metric(pool, "assigned") == 0
    assert await everything_is_settled(pool)


async def test_what_there_is_no_room_for_waits_and_follows(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    async with schedulers(pool):
        await pool.accept("a", "b", "c", "d")
        await until_held(pool, "e1", "a", "b")
        await until_waiting(pool, "c", "d")
        await pool.finish("a")
        await until_held(pool, "e1", "b", "c")
        await pool.finish("c")
        await pool.finish("b")
        await until_held(pool, "e1", "d")
        await until_waiting(pool)
    assert metric(pool, "missed_wakeups") == 0


async def test_an_engine_that_comes_later_is_used_at_once(pool: PoolDriver) -> None:
    async with schedulers(pool):
        await pool.accept("a", "b")
        await until_waiting(pool, "a", "b")
        await pool.engine("e1")
        await until_held(pool, "e1", "a")
        await pool.engine("e2")
        await until_held(pool, "e2", "b")


@pytest.mark.parametrize("why", ["resumed", "ready again", "more slots", "given back", "another retired"])
async def test_whatever_makes_room_is_heard(pool: PoolDriver, why: str) -> None:
    row = await pool.engine("e1", slots=1)
    store, name = pool.store, pool.name
    if why == "resumed":
        await drain_engine(store, name, "e1")
    elif why == "ready again":
        await renew_engine(store, replace(row, state=EngineState.ERROR), [], lease_ms=LEASE_MS)
    elif why == "another retired":
        await drain_engine(store, name, "e1")
        await pool.engine("e2")
    else:
        await pool.running("busy")
    async with schedulers(pool):
        await pool.accept("a")
        if why == "another retired":
            await until_held(pool, "e2", "a")
        else:
            await until_waiting(pool, "a")
        match why:
            case "resumed":
                await drain_engine(store, name, "e1", drain=False)
            case "ready again":
                await renew_engine(store, row, [], lease_ms=LEASE_MS)
            case "more slots":
                await pool.engine("e1", slots=2)
            case "given back":
                await pool.store.commands.hset(pool.keys.record("busy"), "cancel", "cancelled")
                await pool.requeue("busy", Cause.RETURNED)
            case _:
                await drain_engine(store, name, "e1", drain=False)
                await retire_engine(store, name, "e2", "w-e2", EngineState.STOPPED, "")
        held = ("a", "busy") if why == "more slots" else ("a",)
        await until_held(pool, "e1", *held)
    assert metric(pool, "missed_wakeups") == 0


@pytest.mark.parametrize("why", ["drained", "in trouble", "registered anew in trouble", "retired", "lapsed"])
async def test_the_engine_that_failed_it_is_heard_of_when_there_is_no_other(pool: PoolDriver, why: str) -> None:
    row, name = await pool.engine("e2", slots=0), pool.name
    await pool.engine("e1")
    async with schedulers(pool):
        await pool.accept("a")
        await until_held(pool, "e1", "a")
        await pool.requeue("a", engine="e1")
        await until_waiting(pool, "a")
        match why:
            case "drained":
                await drain_engine(pool.store, name, "e2")
            case "in trouble":
                await renew_engine(pool.store, replace(row, state=EngineState.ERROR), [], lease_ms=LEASE_MS)
            case "registered anew in trouble":
                await pool.engine("e2", slots=0, state=EngineState.ERROR)
            case "retired":
                await retire_engine(pool.store, name, "e2", "w-e2", EngineState.STOPPED, "")
            case _:
                pool.clock.advance(LEASE_MS)
                await retire_engine(pool.store, name, "e2", "", EngineState.ERROR, "lapsed")
        await wait_until(lambda: is_on(pool, "a", "e1"), what="a is on e1")
    assert metric(pool, "missed_wakeups") == 0


async def test_one_that_failed_goes_to_another_engine(pool: PoolDriver) -> None:
    await pool.engine("e1")
    async with schedulers(pool):
        await pool.accept("a")
        await until_held(pool, "e1", "a")
        await pool.requeue("a", engine="e1")
        # There is no other: it may try again.
        await until_held(pool, "e1", "a")
        await pool.engine("e2")
        await pool.requeue("a", attempt=2, engine="e1")
        await until_held(pool, "e2", "a")
        assert await pool.holds("e1") == set()


@pytest.mark.parametrize("count", [1, 3])
async def test_one_that_failed_waits_for_others_for_a_bounded_time(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    # The sweep is far away: what places it is a wake-up for that time.
    monkeypatch.setattr(open_engines, "EXCLUDED_FOR_MS", 50.0)
    await pool.engine("e2")
    await pool.running("busy", engine="e2")
    await pool.engine("e1", slots=2)
    async with schedulers(pool, count):
        await pool.accept("a")
        await until_held(pool, "e1", "a")
        await pool.requeue("a", engine="e1")
        await until_waiting(pool, "a")
        pool.clock.advance(48)
        await pool.accept("b")  # a millisecond passes
        await until_held(pool, "e1", "b")
        await until_waiting(pool, "a")
        pool.clock.advance(1)
        await until_held(pool, "e1", "a", "b")
    assert metric(pool, "missed_wakeups") == 0


async def test_one_waits_for_its_model_and_the_next_passes(pool: PoolDriver) -> None:
    await pool.engine("plain", slots=2)
    await pool.engine("tuned", slots=1, models=("lora",))
    await pool.running("busy", engine="tuned")
    async with schedulers(pool):
        await pool.accept("for-lora", model="lora")
        await until_waiting(pool, "for-lora")
        await pool.accept("any-1", "any-2")
        await until_held(pool, "plain", "any-1", "any-2")
        assert await pool.waiting_ids() == ["for-lora"]
        await pool.finish("busy", engine="tuned")
        await until_held(pool, "tuned", "for-lora")


async def test_a_crowd_that_may_not_use_what_is_free_hides_nobody(pool: PoolDriver) -> None:
    # opik#8137: a hundred ineligible entries ahead of the eligible ones.
    await pool.engine("plain", slots=3)
    await pool.engine("tuned", slots=1, models=("lora",))
    await pool.running("busy", engine="tuned")
    await drain_engine(pool.store, pool.name, "plain")
    async with schedulers(pool, batch=8):
        await pool.accept(*(f"lora-{n}" for n in range(100)), model="lora")
        await pool.accept("any-1", "any-2")
        await wait_until(lambda: everything_is_settled(pool))
        await drain_engine(pool.store, pool.name, "plain", drain=False)
        await until_held(pool, "plain", "any-1", "any-2")


async def test_a_cancelled_one_makes_way(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("busy")
    async with schedulers(pool):
        await pool.accept("a", "b")
        await until_waiting(pool, "a", "b")
        await cancel(pool.store, pool.name, "a")
        await pool.finish("busy")
        await until_held(pool, "e1", "b")


async def test_expired_ones_make_way(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("busy")
    async with schedulers(pool):
        await pool.accept(*(f"late-{n}" for n in range(50)), timeout_ms=1000)
        await pool.accept("a")
        await wait_until(lambda: everything_is_settled(pool))
        pool.clock.advance(2000)
        await pool.finish("busy")
        await until_held(pool, "e1", "a")
        assert (await pool.counters())["expired"] == 50


async def test_a_burst_larger_than_a_batch(pool: PoolDriver) -> None:
    await pool.engine("e1", slots=20)
    await pool.engine("e2", slots=20)
    ids = [f"r{n:03}" for n in range(100)]
    async with schedulers(pool, batch=7):
        await pool.accept(*ids)
        await until_waiting(pool, *ids[40:])
    assert await pool.room() == {"e1": 0, "e2": 0}


async def test_the_sweep_finds_nothing_in_normal_operation(pool: PoolDriver) -> None:
    await pool.engine("e1", slots=2)
    async with schedulers(pool, 3, sweep_s=0.005):
        for n in range(30):
            await pool.accept(f"r{n}", f"s{n}", f"t{n}")
            await wait_until(lambda: pool.holds("e1"))
            for request_id in await pool.holds("e1"):
                await pool.finish(request_id)

        async def idle() -> bool:
            for request_id in await pool.holds("e1"):
                await pool.finish(request_id)
            return (await pool.counters()).get("completed") == 90

        await wait_until(idle)
    assert metric(pool, "missed_wakeups") == 0


async def test_what_was_missed_all_the_same_is_found_by_the_sweep_and_counted(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("busy")
    await pool.waiting("a")
    await pool.finish("busy")
    await pool.store.commands.xtrim(pool.keys.freed, maxlen=0)  # the announcement is lost
    async with schedulers(pool, sweep_s=0.02):
        await until_held(pool, "e1", "a")
    assert metric(pool, "missed_wakeups") == 1
