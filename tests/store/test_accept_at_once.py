"""accept, of a request for which an engine is proposed: with nobody ahead of it, it is on that engine at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sagellm_control.store.steps.accept import (
    Accepted,
    AcceptLimits,
    Full,
    NoEngine,
    Proposal,
    Proposals,
    accept_batch,
)
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.store.steps.rules import PLAIN
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import EngineState, Reason, RequestState

from ..clock import START_MS
from ..pool_driver import PoolDriver, new_request
from .at_once import IN_LINE, ON_E1, at_once, in_line, sound

# Who may not: it goes the usual way.


async def somebody_came(pool: PoolDriver) -> None:
    await pool.accept("other", priority=RequestPriority.BACKGROUND)


async def somebody_was_read(pool: PoolDriver) -> None:
    # A scheduler has read it, and not dealt with it yet.
    await somebody_came(pool)
    await pool.take()


async def somebody_waits(pool: PoolDriver) -> None:
    await pool.waiting("other")


async def no_place_is_left(pool: PoolDriver) -> None:
    await pool.running("other", "another")


async def it_is_not_ready(pool: PoolDriver) -> None:
    await pool.engine(slots=2, state=EngineState.DRAINING)


async def it_has_gone(pool: PoolDriver) -> None:
    db, keys = pool.store.commands, pool.keys
    await db.delete(keys.engine("e1"), keys.reservations("e1"), keys.assigned("e1"))
    await db.zrem(keys.room, "e1")
    await db.srem(keys.engines, "e1")


async def its_kv_cache_is_full(pool: PoolDriver) -> None:
    await pool.engine(slots=2, kv_tokens=1000)
    await pool.accept_at_once({"other": replace(ON_E1, kv_tokens=701)})


async def its_pace_keeps_it_closed(pool: PoolDriver) -> None:
    await pool.engine(slots=2, pace_tps=1000.0)
    await pool.accept_at_once({"other": replace(ON_E1, uncached_tokens=10)})


async def the_policy_has_changed(pool: PoolDriver) -> None:
    await set_policy(pool.store, pool.name, {"policy": "fifo"}, {})


@pytest.mark.parametrize(
    "before",
    [
        somebody_came,
        somebody_was_read,
        somebody_waits,
        no_place_is_left,
        it_is_not_ready,
        it_has_gone,
        its_kv_cache_is_full,
        its_pace_keeps_it_closed,
        the_policy_has_changed,
    ],
)
async def test_otherwise_it_goes_the_usual_way(pool: PoolDriver, before: Any) -> None:
    await pool.engine(slots=2)
    await before(pool)
    holds, line, work = await pool.holds(), await in_line(pool), await pool.assigned_entries()
    batch = await pool.accept_at_once({"a": replace(ON_E1, kv_tokens=300, uncached_tokens=10)}, tenant="t")
    assert at_once(batch) == [False]
    assert batch.ahead == int(before in (somebody_came, somebody_was_read, somebody_waits))
    assert await pool.holds() == holds
    assert sorted(await in_line(pool)) == sorted([*line, "a"])
    assert await pool.assigned_entries() == work
    # Just what accept makes of it without a proposal.
    (entry,) = [e for s in pool.keys.intake for e in await pool.store.commands.xrange(s) if e[1][b"id"] == b"a"]
    record = await pool.record("a")
    assert record["state"] == RequestState.QUEUED
    assert record["entry"] == entry[0].decode()
    assert not record.keys() & {"rank", "engine", "attempt", "assigned_ms", "placed", "start", "charge", "epoch"}
    backlog = await pool.store.commands.hgetall(pool.keys.backlog)
    assert backlog[b"tenant_requests/t"] == b"1"
    if before is not it_has_gone:
        await sound(pool)


async def test_without_a_ready_engine_it_is_refused_as_ever(pool: PoolDriver) -> None:
    pool.limits = AcceptLimits()
    await pool.engine(state=EngineState.DRAINING)
    assert (await pool.accept_at_once({"a": ON_E1})).results == [NoEngine()]
    assert await pool.state("a") is None


async def test_what_bounds_an_engine_opens_it_again(pool: PoolDriver) -> None:
    await pool.engine(slots=9, kv_tokens=1000, pace_tps=1000.0)
    each = replace(ON_E1, kv_tokens=500, uncached_tokens=2000)
    assert at_once(await pool.accept_at_once({"a": each})) == [True]
    pool.clock.advance(2000)
    assert at_once(await pool.accept_at_once({"b": each})) == [True]
    pool.clock.advance(2000)
    # As nobody runs on an engine that is empty, it takes one however large.
    await pool.engine("e2", slots=2, kv_tokens=100)
    assert at_once(await pool.accept_at_once({"c": replace(each, engine="e2")})) == [True]
    assert at_once(await pool.accept_at_once({"d": each})) == [False]
    assert await pool.holds() == {"a", "b"}
    await sound(pool)


# Several in one call.


async def test_the_last_place_is_the_most_urgent_ones(pool: PoolDriver) -> None:
    await pool.engine()
    ranks = {"a": 3.0, "b": 1.0, "c": 2.0}
    batch = await pool.accept_at_once({name: Proposal(START_MS + rank, "e1") for name, rank in ranks.items()})
    assert at_once(batch) == [False, True, False], "in the order of the requests"
    assert batch.ahead == 0
    assert await pool.holds() == {"b"}
    assert await in_line(pool) == ["c", "a"]
    arrived = [float((await pool.record(name))["arrived_ms"]) for name in ranks]
    assert [result.arrived_ms for result in batch.results if isinstance(result, Accepted)] == arrived
    await sound(pool)


async def test_who_is_behind_one_that_waits_waits_too(pool: PoolDriver) -> None:
    # There is room for the second, and still it does not overtake the first.
    await pool.engine(slots=2)
    proposals = {"first": replace(IN_LINE, rank=1.0), "second": replace(ON_E1, rank=2.0)}
    assert at_once(await pool.accept_at_once(proposals)) == [False, False]
    assert await pool.holds() == set()


async def test_each_goes_to_its_engine(pool: PoolDriver) -> None:
    for engine in ("e1", "e2", "e3"):
        await pool.engine(engine, slots=2)
    proposals = {
        "a": replace(ON_E1, engine="e3"),
        "b": ON_E1,
        "c": replace(ON_E1, engine="e3"),
        "d": replace(ON_E1, engine="e3"),
    }
    batch = await pool.accept_at_once(proposals)
    assert at_once(batch) == [True, True, True, False]
    assert {e: await pool.holds(e) for e in ("e1", "e2", "e3")} == {"e1": {"b"}, "e2": set(), "e3": {"a", "c"}}
    assert batch.room.places == {"e3": 0, "e1": 1}
    assert batch.room.open_engines == 2
    assert await pool.room() == {"e1": 1, "e2": 2, "e3": 0}
    await sound(pool)


async def test_who_is_refused_is_ahead_of_nobody(pool: PoolDriver) -> None:
    pool.limits = replace(pool.limits, tenant_waiting_bytes=10)
    await pool.engine(slots=1)
    requests = [
        new_request("big", pool.name, tenant="t", body=b"x" * 11),
        new_request("small", pool.name, tenant="t", body=b"x" * 10),
    ]
    batch = await accept_batch(pool.store, pool.name, requests, pool.limits, Proposals([ON_E1] * 2, PLAIN))
    assert batch.results == [Full(0, Reason.TENANT_BYTES_FULL, ()), Accepted(START_MS + 0.001, assigned=True)]
    assert await pool.holds() == {"small"}


async def test_the_bounds_of_what_waits_hold_for_those_behind(pool: PoolDriver) -> None:
    # Two run at once, and so do not wait; of the others only one may.
    pool.limits = AcceptLimits(max_waiting=1, class_waiting=(0, 0, 1, 0, 0), tenant_waiting=1)
    await pool.engine(slots=2)
    batch = await pool.accept_at_once(dict.fromkeys("abcd", ON_E1), tenant="t")
    assert at_once(batch.results[:3]) == [True, True, False]
    assert batch.results[3] == Full(1, Reason.CLASS_FULL, ()), "nobody is to make place for a class that has its share"
    assert await pool.counters() == {"accepted": 3, "class_full": 1}
    assert await pool.store.commands.hget(pool.keys.backlog, "tenant_requests/t") == b"1"
    await sound(pool)
