"""accept, of a request for which an engine is proposed: with nobody ahead of it, it is on that engine at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sagellm_control.store.steps.accept import (
    Accepted,
    AcceptedBatch,
    AcceptLimits,
    AcceptResult,
    Exists,
    Full,
    NoEngine,
    Proposal,
    Proposals,
    accept,
    accept_batch,
)
from sagellm_control.store.steps.admit import INLINE_BODY_BYTES, PLAIN, Admission, Rules, admit
from sagellm_control.store.steps.assign import Placement
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.store.steps.rank import Charge
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.event import Ending
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import NewRequest
from sagellm_control.wire.states import EngineState, Outcome, Reason, RequestState

from ..clock import START_MS
from ..pool_driver import PoolDriver, new_request
from ..pool_state import read_state, violations

ON_E1 = Proposal(START_MS, "e1")
IN_LINE = Proposal(START_MS)
CHARGE = Charge(100.0, 10.0, 2.0)


def at_once(batch: AcceptedBatch | list[AcceptResult]) -> list[bool]:
    """For each request that was accepted: whether it is on its engine."""
    results = batch.results if isinstance(batch, AcceptedBatch) else batch
    assert all(isinstance(result, Accepted) for result in results), results
    return [result.assigned for result in results if isinstance(result, Accepted)]


async def sound(pool: PoolDriver) -> None:
    assert violations(await read_state(pool.store, pool.keys)) == []


async def in_line(pool: PoolDriver) -> list[str]:
    """The requests in the intake streams, the most urgent class first."""
    streams = [await pool.store.commands.xrange(stream) for stream in pool.keys.intake]
    return [fields[b"id"].decode() for entries in streams for _, fields in entries]


async def everything(pool: PoolDriver) -> dict[str, Any]:
    """All keys of a pool that hold anything. An entry of a stream is named by its number instead of its time."""
    db = await pool.store.node_of(pool.keys.waiting)
    prefix = f"{pool.keys.prefix}:"
    found: dict[str, Any] = {}
    numbers: dict[bytes, str] = {}
    for key in sorted([key.decode() async for key in db.scan_iter(match=f"{prefix}*", count=1000)]):
        name = key.removeprefix(prefix)
        match (await db.type(key)).decode():
            case "hash":
                fields = await db.hgetall(key)
                found[name] = {field: value for field, value in fields.items() if field != b"pool"}
            case "zset":
                found[name] = dict(await db.zrange(key, 0, -1, withscores=True))
            case "stream":
                if entries := await db.xrange(key):
                    found[name] = [fields for _, fields in entries]
                    numbers |= {entry: f"{name} {n}" for n, (entry, _) in enumerate(entries)}
            case "set":
                found[name] = await db.smembers(key)
            case _:
                found[name] = await db.get(key)
        ttl = await db.pttl(key)
        assert ttl == -1, f"{name} has a TTL of {ttl}"
    for name, fields in found.items():
        if name.startswith("request:") and isinstance(fields, dict) and b"entry" in fields:
            fields[b"entry"] = numbers[fields[b"entry"]]
    return found


async def the_usual_way(pool: PoolDriver, request: NewRequest, proposal: Proposal, rules: Rules) -> None:
    """Through its intake stream and a scheduler that decides the same."""
    assert at_once(await accept(pool.store, pool.name, [request], pool.limits)) == [False]
    (entry,) = (await pool.take()).arrivals
    admission = Admission(
        entry.level,
        entry.entry_id,
        request.id,
        proposal.rank,
        proposal.engine,
        kv_tokens=proposal.kv_tokens,
        uncached_tokens=proposal.uncached_tokens,
        charge=proposal.charge,
        wait_ms=request.queue_ttl_ms,
    )
    admitted = await admit(pool.store, pool.name, [admission], rules)
    assert admitted is not None
    assert admitted.results == ["assigned"]


BUDGETS: dict[str, Any] = {"kv_tokens": 10_000, "pace_tps": 2000.0}
WHOLE: dict[str, Any] = {
    "priority": RequestPriority.HIGH,
    "tenant": "t",
    "model": "lora",
    "stream": True,
    "continuable": True,
    "timeout_ms": 9000,
    "slo_ms": 500,
    "tpot_slo_ms": 60,
    "reject_late": True,
    "weight": 2.5,
    "queue_ttl_ms": 4000,
    "session": "s",
    "prefix": ("aa", "bb"),
    "prompt_tokens": 12,
    "max_tokens": 34,
    "trace_id": "x",
    "traceparent": "00-1-2-01",
    "attempt": 3,
    "orphan_grace_ms": 700,
}


@pytest.mark.parametrize("fair", [False, True], ids=["plain", "fair"])
@pytest.mark.parametrize(
    ("row", "fields", "cost"),
    [
        ({}, {}, {}),
        (BUDGETS, {}, {"kv_tokens": 300, "uncached_tokens": 500}),
        ({}, {"tenant": "t", "weight": 2.0}, {}),
        ({}, {"prefix": ("aa", "bb")}, {}),
        ({}, {"timeout_ms": 9000, "stream": True}, {}),
        ({}, {"body": b"x" * INLINE_BODY_BYTES}, {}),
        ({}, {"body": b"x" * (INLINE_BODY_BYTES + 1)}, {}),
        ({}, {"attempt": 2}, {}),
        ({"role": "prefilling"}, {"tenant": "t"}, {}),
        (BUDGETS | {"models": ("lora",)}, WHOLE, {"kv_tokens": 300, "uncached_tokens": 500}),
    ],
    ids=["bare", "budgets", "tenant", "prefix", "timeout", "inline", "large", "attempt", "prefilling", "whole"],
)
async def test_it_leaves_what_the_usual_way_leaves(
    pool: PoolDriver, row: dict[str, Any], fields: dict[str, Any], cost: dict[str, Any], fair: bool
) -> None:
    usual = PoolDriver(pool.store, pool.clock, f"{pool.name}-usual")
    charge = replace(CHARGE, flow="a-class") if "tenant" not in fields else CHARGE
    proposal = Proposal(5.0 if fair else START_MS + 7, "e1", **cost, charge=charge if fair else None)
    for driver in (pool, usual):
        driver.clock.now_ms = START_MS
        await driver.engine(slots=4, **row)
        rules = Rules(
            await set_policy(driver.store, driver.name, {"policy": "fair" if fair else "fifo"}, {}),
            fair,
            "by-name",
            True,
        )
        for request_id in ("a", "b"):  # the second one finds what the first has left
            driver.clock.advance(1000)
            request = new_request(request_id, driver.name, **fields)
            if driver is usual:
                await the_usual_way(driver, request, proposal, rules)
            else:
                proposals = Proposals([proposal], rules)
                batch = await accept_batch(driver.store, driver.name, [request], driver.limits, proposals)
                assert at_once(batch) == [True]
    assert (await everything(pool)).keys() >= {"engine:e1", "engine:e1:assigned", "request:a"}
    assert await everything(pool) == await everything(usual)
    await sound(pool)


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
    assert batch.results[3] == Full(1, Reason.QUEUE_FULL, ())
    assert await pool.counters() == {"accepted": 3, "queue_full": 1}
    assert await pool.store.commands.hget(pool.keys.backlog, "tenant_requests/t") == b"1"
    await sound(pool)


# A fair order.


async def fair_rules(pool: PoolDriver) -> Rules:
    return Rules(await set_policy(pool.store, pool.name, {"policy": "fair"}, {}), fair=True)


async def next_starts(pool: PoolDriver) -> dict[str, float]:
    """Flow -> next start, counted from the virtual time."""
    now = float(await pool.store.commands.get(pool.keys.virtual_time))
    found = await pool.store.commands.zrange(pool.keys.tenants, 0, -1, withscores=True)
    return {flow.decode(): round(start - now, 3) for flow, start in found}


async def test_who_is_assigned_is_charged_and_who_goes_in_line_is_not_yet(pool: PoolDriver) -> None:
    rules = await fair_rules(pool)
    await pool.engine(slots=2)
    batch = await pool.accept_at_once(dict.fromkeys("abc", Proposal(0.0, "e1", charge=CHARGE)), rules=rules, tenant="t")
    assert at_once(batch) == [True, True, False]
    assert await next_starts(pool) == {"t": 100.0}  # the virtual time is the start of b
    starts = [float((await pool.record(name))["start"]) for name in "ab"]
    assert starts[1] - starts[0] == 100.0
    assert "start" not in await pool.record("c")
    (entry,) = (await pool.take()).arrivals
    admission = replace(pool.admission(entry, rank=0.0), charge=CHARGE)
    await admit(pool.store, pool.name, [admission], rules)
    assert await next_starts(pool) == {"t": 200.0}


async def test_in_a_fair_order_the_last_place_is_his_who_had_least(pool: PoolDriver) -> None:
    rules = await fair_rules(pool)
    await pool.engine(slots=3)
    proposal = Proposal(0.0, "e1", charge=CHARGE)
    assert at_once(await pool.accept_at_once(dict.fromkeys("ab", proposal), rules=rules, tenant="busy")) == [True] * 2
    requests = [new_request("c", pool.name, tenant="busy"), new_request("d", pool.name, tenant="idle")]
    # The virtual time is the start of b: what busy starts next comes a charge later, what idle does, now.
    batch = await accept_batch(pool.store, pool.name, requests, pool.limits, Proposals([proposal] * 2, rules))
    assert at_once(batch) == [False, True]
    assert await pool.holds() == {"a", "b", "d"}
    assert await in_line(pool) == ["c"]
    await sound(pool)


async def test_who_has_no_charge_goes_the_usual_way_in_a_fair_order(pool: PoolDriver) -> None:
    rules = await fair_rules(pool)
    await pool.engine()
    assert at_once(await pool.accept_at_once({"a": Proposal(0.0, "e1")}, rules=rules)) == [False]
    assert await in_line(pool) == ["a"]
    await sound(pool)


# Sent again, or twice.


async def test_sent_again_nothing_is_doubled(pool: PoolDriver) -> None:
    rules = await fair_rules(pool)
    await pool.engine(slots=4, kv_tokens=1000, pace_tps=10_000.0)
    proposals = dict.fromkeys("ab", Proposal(0.0, "e1", 100, 50, CHARGE))
    assert at_once(await pool.accept_at_once({"a": proposals["a"]}, rules=rules, tenant="t")) == [True]
    before = await everything(pool)
    assert at_once(await pool.accept_at_once({"a": proposals["a"]}, rules=rules, tenant="t")) == [False]
    assert await everything(pool) == before
    # One of the two is new.
    pool.clock.advance(50)
    assert at_once(await pool.accept_at_once(proposals, rules=rules, tenant="t")) == [False, True]
    assert [entry["id"] for entry in await pool.assigned_entries()] == ["a", "b"]
    assert await pool.counters() == {"accepted": 2}
    await sound(pool)


async def test_an_id_that_exists_is_no_other_request(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.accept_at_once({"a": ON_E1})
    before = await everything(pool)
    expected = Exists(RequestState.ASSIGNED, same_body=False, same_tenant=True)
    assert (await pool.accept_at_once({"a": ON_E1}, ticket="second", body=b"other")).results == [expected]
    assert await everything(pool) == before


async def test_twice_in_one_call_it_runs_once(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    requests = [new_request("a", pool.name)] * 2
    batch = await accept_batch(pool.store, pool.name, requests, pool.limits, Proposals([ON_E1] * 2, PLAIN))
    assert sorted(at_once(batch)) == [False, True]
    assert len(await pool.assigned_entries()) == 1
    assert await pool.room() == {"e1": 1}
    await sound(pool)


# What comes after.


async def test_it_is_claimed_and_finished_by_its_own_attempt_only(pool: PoolDriver) -> None:
    await pool.engine(kv_tokens=1000)
    await pool.accept_at_once({"a": replace(ON_E1, kv_tokens=300)}, attempt=2)
    assert await pool.claim("a", 2) == "lost"
    assert await pool.claim("a", 3, worker="somebody") == "lost"
    assert await pool.claim("a", 3) == "running"
    assert not await pool.append("a", attempt=2)
    assert await pool.append("a", attempt=3)
    assert await pool.finish("a", 2, attempt=3)
    assert await pool.room() == {"e1": 1}
    assert await pool.store.commands.hget(pool.keys.engine("e1"), "kv_held") == b"0"
    assert await pool.assigned_entries() == []
    assert await pool.counters() == {"accepted": 1, "completed": 1}
    await sound(pool)


async def test_it_can_be_cancelled(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.accept_at_once({"a": ON_E1}, tenant="t")
    await cancel(pool.store, pool.name, "a")
    assert (await pool.record("a"))["state"] == RequestState.ASSIGNED, "until its worker has heard of it"
    assert await pool.claim("a") == "cancelled"
    assert await pool.finish("a", ending=Ending(Outcome.CANCELLED, 499))
    assert (await pool.record("a"))["outcome"] == Outcome.CANCELLED
    assert await pool.room() == {"e1": 1}
    assert await pool.store.commands.hgetall(pool.keys.backlog) == {}
    await sound(pool)


async def test_given_back_it_waits_at_its_rank_and_keeps_others_in_line(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.accept_at_once({"a": ON_E1})
    await pool.claim("a")
    assert await pool.requeue("a") == "waiting"
    assert await pool.store.commands.zscore(pool.keys.waiting, "a") == ON_E1.rank
    # The place is free again, and still it is not b's turn.
    batch = await pool.accept_at_once({"b": ON_E1})
    assert (at_once(batch), batch.ahead) == ([False], 1)
    assert (await pool.assign(Placement("a", 1, "e1"))).results == ["assigned"]
    assert await pool.claim("a", 2) == "running"
    await sound(pool)


async def test_in_a_fair_order_what_is_given_back_is_in_the_line_of_its_flow(pool: PoolDriver) -> None:
    rules = await fair_rules(pool)
    await pool.engine()
    await pool.accept_at_once({"a": Proposal(0.0, "e1", charge=CHARGE)}, rules=rules, tenant="t")
    assert await pool.requeue("a", Cause.FAILED) == "waiting"
    assert await pool.store.commands.hget(pool.keys.backlog, "ranked/t") == b"1"
    assert not await pool.store.commands.exists(pool.keys.misranked)
    await cancel(pool.store, pool.name, "a")
    assert await pool.store.commands.hgetall(pool.keys.backlog) == {}
    assert await next_starts(pool) == {"t": 0.0}, "as it was never charged"
