"""What waits is bounded: requests and bytes, for the pool, a class and a tenant; and what a full queue does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sagellm_control.client.displacement import displace_and_accept
from sagellm_control.store.steps.accept import Accepted, AcceptLimits, AcceptResult, Full, accept
from sagellm_control.store.steps.admit import Admission, admit
from sagellm_control.store.steps.assign import Late, Move
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.displace import displace
from sagellm_control.store.steps.expire import Expired, expire_waiting
from sagellm_control.store.steps.mend import Repair, heal
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import Outcome, Reason

from ..pool_driver import PoolDriver, new_request
from .loses_replies import LosesReplies

ANY = AcceptLimits(without_engine=True)


async def backlog(pool: PoolDriver) -> dict[str, int]:
    found = await pool.store.commands.hgetall(pool.keys.backlog)
    return {name.decode(): int(count) for name, count in found.items()}


async def test_it_counts_what_no_engine_has(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.accept("a", tenant="t", body=b"12345")
    counted = {"requests/2": 1, "bytes/2": 5, "tenant_requests/t": 1, "tenant_bytes/t": 5}
    assert await backlog(pool) == counted
    await pool.admit(*(pool.admission(entry) for entry in (await pool.take()).arrivals))
    assert await backlog(pool) == counted
    await pool.assign(Move("a", 0, "e1"))
    assert await backlog(pool) == {}
    await pool.requeue("a", Cause.RETURNED)
    assert await backlog(pool) == counted
    await cancel(pool.store, pool.name, "a")
    assert await backlog(pool) == {}


async def test_straight_to_an_engine_it_counts_no_more(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.accept("a", tenant="t")
    await pool.admit(*(pool.admission(entry, engine="e1") for entry in (await pool.take()).arrivals))
    assert await backlog(pool) == {}


async def test_a_wrong_count_heals_when_nothing_waits(pool: PoolDriver) -> None:
    await pool.store.commands.hset(pool.keys.backlog, mapping={"requests/2": 999, "tenant_requests/gone": 3})
    assert await heal(pool.store, pool.name, [], grace_ms=1000) == [(Repair.WRONG_BACKLOG, "")]
    await pool.accept("a", body=b"123")
    assert await heal(pool.store, pool.name, [], grace_ms=1000) == []
    assert await backlog(pool) == {"requests/2": 1, "bytes/2": 3}


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_waiting": 2}, Reason.QUEUE_FULL),
        ({"max_waiting_bytes": 20}, Reason.QUEUE_BYTES_FULL),
        ({"class_waiting": (0, 0, 2, 0, 0)}, Reason.CLASS_FULL),
        ({"class_waiting_bytes": (0, 0, 20, 0, 0)}, Reason.CLASS_BYTES_FULL),
        ({"tenant_waiting": 2}, Reason.TENANT_FULL),
        ({"tenant_waiting_bytes": 20}, Reason.TENANT_BYTES_FULL),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
async def test_bounds(pool: PoolDriver, limits: dict[str, Any], reason: Reason) -> None:
    requests = [new_request(r, pool.name, tenant="t", body=b"0123456789") for r in "abc"]
    results = await accept(pool.store, pool.name, requests, replace(ANY, **limits))
    assert [type(result) for result in results] == [Accepted, Accepted, Full]
    assert isinstance(results[2], Full)
    assert (results[2].reason, results[2].waiting) == (reason, 2)
    assert (await pool.counters())[reason] == 1
    # Another call, and another tenant or class where those are what is bounded.
    other = new_request("d", pool.name, tenant="u", priority=RequestPriority.HIGH, body=b"0123456789")
    (again,) = await accept(pool.store, pool.name, [other], replace(ANY, **limits))
    assert isinstance(again, Full) is (reason in (Reason.QUEUE_FULL, Reason.QUEUE_BYTES_FULL))


BOUNDS = AcceptLimits(
    max_waiting=1,
    max_waiting_bytes=2,
    tenant_waiting=3,
    tenant_waiting_bytes=4,
    class_waiting=(50, 5, 52, 53, 54),
    class_waiting_bytes=(60, 6, 62, 63, 64),
)
BOUND_OF = {
    Reason.QUEUE_FULL: 1,
    Reason.QUEUE_BYTES_FULL: 2,
    Reason.TENANT_FULL: 3,
    Reason.TENANT_BYTES_FULL: 4,
    Reason.CLASS_FULL: 5,
    Reason.CLASS_BYTES_FULL: 6,
}


@pytest.mark.parametrize("reason", Reason)
def test_a_client_is_told_the_bound_that_kept_it_out(reason: Reason) -> None:
    if reason.endswith("_full"):
        assert BOUNDS.bound_of(reason, RequestPriority.HIGH) == BOUND_OF[reason]
    else:
        with pytest.raises(ValueError, match=f"^{reason} is about no bound"):
            BOUNDS.bound_of(reason, RequestPriority.HIGH)


async def test_a_full_queue_names_who_is_last_in_line(pool: PoolDriver) -> None:
    await pool.waiting("a", "b", "c")
    (full,) = await accept(pool.store, pool.name, [new_request("d", pool.name)], replace(ANY, max_waiting=3))
    assert isinstance(full, Full)
    assert full.last == ("c", "b", "a")


async def test_the_least_urgent_makes_place(pool: PoolDriver) -> None:
    await pool.waiting("a", priority=RequestPriority.LOW)
    await pool.waiting("b", priority=RequestPriority.BACKGROUND)
    await pool.waiting("c", priority=RequestPriority.BACKGROUND)
    await pool.waiting("d", priority=RequestPriority.NORMAL)
    last = ["d", "c", "b", "a"]
    gone = await displace(pool.store, pool.name, RequestPriority.LOW, last, retry_after_s=7)
    assert gone == ["c"]
    ending = await pool.ending("c")
    assert (ending.outcome, ending.status, ending.code) == (Outcome.REJECTED, 429, Reason.DISPLACED)
    assert ending.retry_after_s == 7
    assert await pool.waiting_ids() == ["a", "b", "d"]
    assert (await backlog(pool))["requests/4"] == 1
    assert await displace(pool.store, pool.name, RequestPriority.BACKGROUND, last, retry_after_s=7) == []
    assert await displace(pool.store, pool.name, RequestPriority.LOW, last, retry_after_s=7) == ["b"]


async def test_nobody_goes_in_vain(pool: PoolDriver) -> None:
    await pool.engine(slots=1)
    await pool.running("tried", priority=RequestPriority.BACKGROUND)
    await pool.requeue("tried", Cause.RETURNED)
    await pool.waiting("small", priority=RequestPriority.BACKGROUND, body=b"1234")
    last, high = ["small", "tried"], RequestPriority.HIGH
    assert await displace(pool.store, pool.name, high, last, wanted_bytes=5, retry_after_s=7) == []
    assert await displace(pool.store, pool.name, high, last, wanted_bytes=4, retry_after_s=7) == ["small"]
    assert await displace(pool.store, pool.name, high, last, retry_after_s=7) == [], "it may have been answered in part"


@pytest.mark.parametrize(
    ("wanted", "gone"),
    [(0, ["c"]), (3, ["c"]), (6, ["c", "b"]), (9, ["a"]), (12, ["c", "a"]), (13, ["c", "b", "a"]), (16, [])],
)
async def test_as_few_go_as_make_place_for_a_long_one(pool: PoolDriver, wanted: int, gone: list[str]) -> None:
    for request_id, length in (("a", 9), ("b", 3), ("c", 3)):
        await pool.waiting(request_id, priority=RequestPriority.LOW, body=b"x" * length)
    last = ["c", "b", "a"]
    found = await displace(pool.store, pool.name, RequestPriority.HIGH, last, wanted_bytes=wanted, retry_after_s=7)
    assert found == gone
    assert await pool.waiting_ids() == [name for name in "abc" if name not in gone]


async def test_a_long_urgent_one_comes_in_where_only_short_ones_wait(pool: PoolDriver) -> None:
    await pool.waiting(*(f"short-{n}" for n in range(10)), priority=RequestPriority.LOW, body=b"x" * 10)
    long = new_request("long", pool.name, priority=RequestPriority.CRITICAL, body=b"x" * 25)
    limits = replace(ANY, max_waiting_bytes=105)

    async def again() -> AcceptResult:
        return (await accept(pool.store, pool.name, [long], limits))[0]

    full = await again()
    assert isinstance(full, Full)
    assert full.missing_bytes == 20
    assert isinstance(await displace_and_accept(pool.store, long, full, again, retry_after_s=1), Accepted)
    assert (await pool.counters())["displaced"] == 2


async def test_one_arrival_takes_one_place_though_the_reply_was_lost(pool: PoolDriver) -> None:
    await pool.waiting("a", "b", "c", priority=RequestPriority.BACKGROUND)
    last, client = ["c", "b", "a"], pool.store.commands
    assert await displace(pool.store, pool.name, RequestPriority.BACKGROUND, last, retry_after_s=7) == []
    pool.store.commands = LosesReplies(client)
    assert await displace(pool.store, pool.name, RequestPriority.HIGH, last, retry_after_s=7) == ["c"]
    pool.store.commands = client
    assert await pool.waiting_ids() == ["a", "b"]
    assert (await pool.counters())["displaced"] == 1
    assert await displace(pool.store, pool.name, RequestPriority.HIGH, last, retry_after_s=7) == ["b"]


async def test_a_class_waits_no_longer_than_it_may(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.accept("a", "b", queue_ttl_ms=1000)
    await pool.accept("c")
    admissions = [
        Admission(e.level, e.entry_id, e.fields["id"], i, wait_ms=1000 if e.fields["id"] != "c" else 0)
        for i, e in enumerate((await pool.take()).arrivals)
    ]
    await admit(pool.store, pool.name, admissions)
    assert await expire_waiting(pool.store, pool.name) == Expired(next_ms=pool.clock.now_ms + 999)
    assert (await pool.assign(Move("a", 0, "e1"))).results == ["assigned"]
    pool.clock.advance(1001)
    assert await expire_waiting(pool.store, pool.name) == Expired(of_class=1)
    ending = await pool.ending("b")
    assert (ending.outcome, ending.status, ending.code) == (Outcome.EXPIRED, 503, Reason.QUEUE_TTL)
    assert (await pool.state("a"), await pool.state("c")) == ("assigned", "waiting")
    assert await pool.store.commands.exists(pool.keys.expiries) == 0


async def admit_waiting(pool: PoolDriver, wait_ms: int) -> None:
    arrivals = (await pool.take()).arrivals
    await admit(
        pool.store,
        pool.name,
        [Admission(e.level, e.entry_id, e.fields["id"], i, wait_ms=wait_ms) for i, e in enumerate(arrivals)],
    )


async def test_what_is_to_be_refused_when_late_ends_while_it_waits(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.accept("own", slo_ms=100, reject_late=True)
    await pool.accept("both", slo_ms=100, reject_late=True, queue_ttl_ms=1000)
    await admit_waiting(pool, 100)
    pool.clock.advance(98)
    assert await expire_waiting(pool.store, pool.name) == Expired(next_ms=pool.clock.now_ms + 1)
    pool.clock.advance(2000)  # nobody has looked for a while: it was late before its class's time was over
    assert await expire_waiting(pool.store, pool.name) == Expired(late=2)
    for request_id in ("own", "both"):
        ending = await pool.ending(request_id)
        assert (ending.outcome, ending.status, ending.code) == (Outcome.REJECTED, 503, Reason.TOO_LATE)
    assert await pool.store.commands.hget(pool.keys.counters, "slo_missed") == b"2"
    assert await backlog(pool) == {}
    assert await pool.store.commands.exists(pool.keys.waiting, pool.keys.expiries) == 0


async def test_a_pool_that_serves_late_ones_by_then_refuses_none(pool: PoolDriver) -> None:
    await pool.engine()
    await set_policy(pool.store, pool.name, {}, {"late": "refuse"})
    await pool.accept("a", slo_ms=100)
    await pool.accept("b", slo_ms=100, queue_ttl_ms=1000)
    await admit_waiting(pool, 100)
    await set_policy(pool.store, pool.name, {}, {"late": ""})
    pool.clock.advance(100)
    accepted_ms = pool.clock.now_ms - 100
    assert await expire_waiting(pool.store, pool.name) == Expired(next_ms=accepted_ms + 1000)
    pool.clock.advance(900)
    assert await expire_waiting(pool.store, pool.name) == Expired(of_class=1)
    assert await pool.waiting_ids() == ["a"]


async def test_late_ones_step_back_once(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.waiting("a", "b")
    since = pool.clock.now_ms
    late = Move("a", 0, None, late=Late.STEP_BACK, late_since_ms=since, rank=since + 600_000)
    assert (await pool.assign(late)).results == ["late"]
    assert await pool.waiting_ids() == ["b", "a"]
    assert (await pool.record("a"))["late"] == "1"
    await pool.assign(Move("b", 0, "e1"))
    assert (await pool.assign(late)).results == ["stale"], "it has stepped back before"


async def test_late_ones_are_refused_when_they_are(pool: PoolDriver) -> None:
    await pool.waiting("a")
    too_early = Move("a", 0, None, late=Late.REFUSE, late_since_ms=pool.clock.now_ms + 1)
    assert (await pool.assign(too_early)).results == ["stale"]
    pool.clock.advance(1)
    assert (await pool.assign(too_early)).results == ["refused"]
    ending = await pool.ending("a")
    assert (ending.outcome, ending.code) == (Outcome.REJECTED, Reason.TOO_LATE)
    assert await backlog(pool) == {}
