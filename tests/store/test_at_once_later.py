"""A request that was on its engine as it was accepted: sent again, and what comes of it afterwards."""

from __future__ import annotations

from dataclasses import replace

from sagellm_control.store.steps.accept import (
    Exists,
    Proposal,
    Proposals,
    accept_batch,
)
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.store.steps.rules import PLAIN
from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import Outcome, RequestState

from ..pool_driver import PoolDriver, new_request
from .at_once import CHARGE, ON_E1, at_once, everything, fair_rules, next_starts, sound

# Sent again, or twice.


async def test_sent_again_nothing_is_doubled(pool: PoolDriver) -> None:
    rules = await fair_rules(pool)
    await pool.engine(slots=4, kv_tokens=1000, pace_tps=10_000.0)
    proposals = dict.fromkeys("ab", Proposal(0.0, "e1", 100, 50, CHARGE))
    assert at_once(await pool.accept_at_once({"a": proposals["a"]}, rules=rules, tenant="t")) == [True]
    before = await everything(pool)
    assert at_once(await pool.accept_at_once({"a": proposals["a"]}, rules=rules, tenant="t")) == [False]
    assert await everything(pool) == before
    pool.clock.advance(50)
    assert at_once(await pool.accept_at_once({"b": proposals["b"]}, rules=rules, tenant="t")) == [True]
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
    assert (await pool.assign(Move("a", 1, "e1"))).results == ["assigned"]
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
