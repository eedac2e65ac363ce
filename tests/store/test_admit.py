"""admit: arrivals leave their intake stream, for an engine or for the waiting set."""

from __future__ import annotations

import pytest

from sagellm_control.store.steps.admit import Admission
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.engines import drain_engine
from sagellm_control.store.steps.rules import INLINE_BODY_BYTES
from sagellm_control.wire.event import Ending
from sagellm_control.wire.keys import SCHEDULER_GROUP
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import EngineState, Outcome
from sagellm_control.wire.trace_context import TraceContext

from ..clock import START_MS
from ..pool_driver import PoolDriver


async def arrivals(pool: PoolDriver, *request_ids: str, engine: str | None = None, **fields: object) -> list[Admission]:
    """Accepted and taken, ready to be admitted."""
    await pool.accept(*request_ids, **fields)
    return [pool.admission(entry, engine=engine) for entry in (await pool.take()).arrivals]


async def assert_intake_empty(pool: PoolDriver) -> None:
    for stream in pool.keys.intake:
        assert await pool.store.commands.xlen(stream) == 0
        assert (await pool.store.commands.xpending(stream, SCHEDULER_GROUP))["pending"] == 0


async def test_without_an_engine_it_waits_under_its_rank(pool: PoolDriver) -> None:
    (admission,) = await arrivals(pool, "a")
    admitted = await pool.admit(admission)
    assert (admitted.results, admitted.room.places, admitted.room.waiting, admitted.room.open_engines) == (
        ["waiting"],
        {},
        1,
        0,
    )
    rank = START_MS + 1
    assert await pool.store.commands.zscore(pool.keys.waiting, "a") == rank
    record = await pool.record("a")
    assert (record["state"], record["rank"]) == ("waiting", f"{rank:.3f}")
    assert "entry" not in record
    await assert_intake_empty(pool)


async def test_straight_to_the_engine_where_nobody_waits(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    more = {"stream": True, "timeout_ms": 9000, "tenant": "t", "trace": TraceContext("x")}
    (admission,) = await arrivals(pool, "a", engine="e1", priority=RequestPriority.HIGH, body=b"{}", **more)
    admitted = await pool.admit(admission)
    assert (admitted.results, admitted.room.places) == (["assigned"], {"e1": 1})
    assert (admitted.room.waiting, admitted.room.open_engines) == (0, 1)
    now = f"{START_MS + 1:.3f}"
    assert await pool.assigned_entries() == [
        {
            "id": "a",
            "attempt": "1",
            "kind": "chat",
            "priority": "1",
            "arrived_ms": now,
            "assigned_ms": now,
            "stream": "1",
            "timeout_at_ms": f"{START_MS + 9001:.3f}",
            "tenant": "t",
            "trace": '{"trace_id":"x"}',
            "body": "{}",
        }
    ]
    record = await pool.record("a")
    assert (record["state"], record["engine"], record["attempt"]) == ("assigned", "e1", "1")
    assert record["entry"] == (await pool.store.commands.xrange(pool.keys.assigned("e1")))[0][0].decode()
    # The rank is kept for the case that it has to go back.
    assert record["rank"] == now
    assert await pool.holds() == {"a"}
    assert await pool.room() == {"e1": 1}
    await assert_intake_empty(pool)


@pytest.mark.parametrize(
    ("ahead", "result"),
    [(-1.0, "waiting"), (0.0, "waiting"), (1.0, "assigned")],
    ids=["more urgent", "equal", "less urgent"],
)
async def test_nobody_passes_who_waits_before_it(pool: PoolDriver, ahead: float, result: str) -> None:
    await pool.engine()
    await pool.waiting("first")
    (admission,) = await arrivals(pool, "a", engine="e1")
    await pool.store.commands.zadd(pool.keys.waiting, {"first": admission.rank + ahead})
    assert (await pool.admit(admission)).results == [result]


async def test_what_the_engine_has_no_place_for_waits_and_so_does_what_follows(pool: PoolDriver) -> None:
    await pool.engine("e1", slots=1)
    await pool.engine("e2", slots=1)
    a, b, c = await arrivals(pool, "a", "b", "c", engine="e1")
    c = Admission(c.level, c.entry_id, c.request_id, c.rank, "e2")
    admitted = await pool.admit(a, b, c)
    # "c" must not pass "b", though its engine has room; assign sorts that out.
    assert admitted.results == ["assigned", "waiting", "waiting"]
    assert admitted.room.places == {"e1": 0}
    assert await pool.waiting_ids() == ["b", "c"]
    assert (admitted.room.waiting, admitted.room.open_engines) == (2, 1)


async def test_an_engine_that_was_filled_in_between(pool: PoolDriver) -> None:
    await pool.engine()
    (late,) = await arrivals(pool, "late", engine="e1")
    await pool.assigned("quick")
    admitted = await pool.admit(late)
    assert (admitted.results, admitted.room.places) == (["waiting"], {"e1": 0})
    assert await pool.holds() == {"quick"}
    assert await pool.state("late") == "waiting"


async def test_an_engine_that_takes_nothing_any_more(pool: PoolDriver) -> None:
    await pool.engine("drained")
    await drain_engine(pool.store, pool.name, "drained")
    await pool.engine("broken", state=EngineState.ERROR)
    for engine in ("drained", "broken", "never-heard-of"):
        (admission,) = await arrivals(pool, f"for-{engine}", engine=engine)
        assert (await pool.admit(admission)).results == ["waiting"]
        assert await pool.holds(engine) == set()


async def test_prefetch_is_room_too(pool: PoolDriver) -> None:
    await pool.engine(slots=1, prefetch=1)
    admitted = await pool.admit(*await arrivals(pool, "a", "b", "c", engine="e1"))
    assert admitted.results == ["assigned", "assigned", "waiting"]


async def test_a_cancelled_one_is_gone(pool: PoolDriver) -> None:
    (admission,) = await arrivals(pool, "a")
    await cancel(pool.store, pool.name, "a")
    assert (await pool.admit(admission)).results == ["gone"]
    assert await pool.waiting_ids() == []
    assert (await pool.counters()) == {"accepted": 1, "cancelled": 1}
    assert await pool.dead() == []


@pytest.mark.parametrize("engine", [None, "e1"])
async def test_admitted_twice_it_is_there_once(pool: PoolDriver, engine: str | None) -> None:
    # A reply that was lost, or a scheduler that was slow while another took over what it had read.
    await pool.engine(slots=5)
    (admission,) = await arrivals(pool, "a", engine=engine)
    await pool.admit(admission)
    before = await pool.record("a")
    assert (await pool.admit(admission)).results == ["gone"]
    assert await pool.record("a") == before
    assert len(await pool.waiting_ids()) + len(await pool.assigned_entries()) == 1
    assert await pool.dead() == []


@pytest.mark.parametrize(("passed_ms", "result"), [(999.0, "waiting"), (1000.0, "expired"), (99_999.0, "expired")])
async def test_a_timeout_that_has_passed(pool: PoolDriver, passed_ms: float, result: str) -> None:
    (admission,) = await arrivals(pool, "a", timeout_ms=1000)
    pool.clock.advance(passed_ms)
    assert (await pool.admit(admission)).results == [result]
    await assert_intake_empty(pool)
    if result == "expired":
        assert (await pool.record("a"))["outcome"] == "expired"
        ending = await pool.ending("a")
        assert (ending.outcome, ending.status, ending.code) == (Outcome.EXPIRED, 408, "deadline_exceeded")
        assert (await pool.counters())["expired"] == 1


@pytest.mark.parametrize(
    ("size", "travels"), [(INLINE_BODY_BYTES, True), (INLINE_BODY_BYTES + 1, False)], ids=["small", "large"]
)
async def test_a_large_body_stays_where_it_is(pool: PoolDriver, size: int, travels: bool) -> None:
    await pool.engine()
    await pool.admit(*await arrivals(pool, "a", engine="e1", body=b"x" * size))
    (entry,) = await pool.assigned_entries()
    assert entry.get("body") == ("x" * size if travels else None)
    assert await pool.store.commands.strlen(pool.keys.body("a")) == size


async def test_one_that_cannot_be_read_ends_and_its_client_is_told(pool: PoolDriver) -> None:
    (good, bad) = await arrivals(pool, "good", "bad")
    bad = Admission(bad.level, bad.entry_id, bad.request_id, dead_reason="field 'x' is wrong")
    assert (await pool.admit(bad, good)).results == ["dead", "waiting"]
    assert (await pool.record("bad"))["outcome"] == "dead"
    assert await pool.ending("bad") == Ending(
        Outcome.DEAD, status=500, code="unreadable_request", message="field 'x' is wrong"
    )
    (copy,) = await pool.dead()
    assert (copy["reason"], copy["request"], copy["id"], copy["priority"]) == ("field 'x' is wrong", "bad", "bad", "2")
    assert await pool.counters() == {"accepted": 2, "dead": 1}
    await assert_intake_empty(pool)


async def test_garbage_that_is_no_request_is_counted_apart(pool: PoolDriver) -> None:
    await pool.take()
    entry = await pool.store.commands.xadd(pool.keys.intake[2], {"x": "y" * 5000})
    await pool.take()
    assert (await pool.admit(Admission(2, entry.decode(), "unreadable", dead_reason="why"))).results == ["dead"]
    (copy,) = await pool.dead()
    assert copy == {"reason": "why", "request": "unreadable", "x": "y" * 1024}
    assert await pool.counters() == {"garbage": 1}
    await assert_intake_empty(pool)


async def test_an_entry_without_a_record_is_garbage(pool: PoolDriver) -> None:
    (admission,) = await arrivals(pool, "a")
    await pool.store.commands.delete(pool.keys.record("a"), pool.keys.body("a"))
    assert (await pool.admit(admission)).results == ["dead"]
    assert (await pool.dead())[0]["reason"] == "no record of this request"
    assert await pool.counters() == {"accepted": 1, "garbage": 1}, "it may never have been accepted"


async def test_one_that_was_accepted_and_lost_its_record_is_counted_as_lost(pool: PoolDriver) -> None:
    await pool.accept("a", "b", tenant="t")
    admissions = [pool.admission(entry) for entry in (await pool.take()).arrivals]
    await pool.store.commands.delete(pool.keys.record("a"))
    assert (await pool.admit(admissions[0])).results == ["dead"]
    assert not await pool.store.commands.exists(pool.keys.body("a"))
    assert await pool.counters() == {"accepted": 2, "garbage": 1, "lost": 1}
    await cancel(pool.store, pool.name, "b")
    assert not await pool.store.commands.exists(pool.keys.backlog), "neither waits any more"


@pytest.mark.parametrize("state", ["queued", "waiting", "assigned", "running", "finished"])
async def test_a_second_entry_of_a_request_that_exists_is_garbage(pool: PoolDriver, state: str) -> None:
    await pool.engine()
    if state == "queued":
        await pool.accept("a")
        await pool.take()
    else:
        await getattr(pool, "running" if state == "finished" else state)("a")
    if state == "finished":
        await pool.finish("a")
    before = await pool.record("a")
    forged = {"id": "a", "priority": 0, "arrived_ms": 1}
    entry = await pool.store.commands.xadd(pool.keys.intake[0], forged, id="99999999999999-1")
    await pool.take()
    assert (await pool.admit(Admission(0, entry.decode(), "a", rank=1.0))).results == ["dead"]
    assert await pool.record("a") == before
    assert [copy["request"] for copy in await pool.dead()] == ["a"]
    assert (await pool.counters())["garbage"] == 1
    assert await pool.store.commands.xlen(pool.keys.intake[0]) == 0


async def test_an_entry_of_the_same_number_in_another_stream_is_garbage(pool: PoolDriver) -> None:
    # Streams number their entries on their own: two of one millisecond have the same id.
    (genuine,) = await arrivals(pool, "a")
    forged = {"id": "a", "priority": 0, "arrived_ms": 1}
    await pool.store.commands.xadd(pool.keys.intake[0], forged, id=genuine.entry_id)
    await pool.take()
    assert (await pool.admit(Admission(0, genuine.entry_id, "a", rank=1.0))).results == ["dead"]
    assert (await pool.admit(genuine)).results == ["waiting"]
    assert await pool.store.commands.zscore(pool.keys.waiting, "a") == genuine.rank


async def test_the_outcome_of_each_is_in_its_place(pool: PoolDriver) -> None:
    await pool.engine()
    cancelled, expired, first, second = [
        (await arrivals(pool, name, engine="e1", timeout_ms=timeout))[0]
        for name, timeout in (("cancelled", 0), ("expired", 1), ("first", 0), ("second", 0))
    ]
    await cancel(pool.store, pool.name, "cancelled")
    pool.clock.advance(10)
    admitted = await pool.admit(cancelled, expired, first, second)
    assert admitted.results == ["gone", "expired", "assigned", "waiting"]


async def test_an_arrival_that_is_named_twice_is_admitted_once(pool: PoolDriver) -> None:
    """As when a scheduler takes over from itself what it has in its hands."""
    await pool.engine(slots=2)
    await pool.accept("a")
    (entry,) = (await pool.take()).arrivals
    twice = [pool.admission(entry, engine="e1"), pool.admission(entry)]
    assert (await pool.admit(*twice)).results == ["assigned", "gone"]
    assert await pool.waiting_ids() == []
    assert len(await pool.assigned_entries()) == 1
