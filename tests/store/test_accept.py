"""accept: requests enter the queue, each once per request id."""

from __future__ import annotations

from typing import Any

import pytest

from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.accept import Accepted, AcceptLimits, Exists, Full, NoEngine, accept
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import LEAST_WEIGHT, MOST_WEIGHT, read_arrival
from sagellm_control.wire.states import EngineState, Reason, RequestState
from sagellm_control.wire.trace_context import TraceContext

from ..clock import START_MS
from ..pool_driver import PoolDriver, new_request


async def intake(pool: PoolDriver, priority: RequestPriority = RequestPriority.NORMAL) -> list[dict[str, str]]:
    entries = await pool.store.commands.xrange(pool.keys.intake[priority])
    return [{n.decode(): v.decode() for n, v in fields.items()} for _, fields in entries]


async def test_a_request_gets_a_record_a_body_and_an_entry(pool: PoolDriver) -> None:
    assert await pool.accept("a", body=b'{"x": 1}') == [Accepted(START_MS + 1)]
    arrived = f"{START_MS + 1:.3f}"
    assert await intake(pool) == [{"id": "a", "priority": "2", "arrived_ms": arrived, "kind": "chat"}]
    entry = (await pool.store.commands.xrange(pool.keys.intake[2]))[0][0].decode()
    assert await pool.record("a") == {
        "v": "1",
        "state": "queued",
        "kind": "chat",
        "priority": "2",
        "arrived_ms": arrived,
        "inbox": "inbox-of-a",
        "ticket": "ticket-of-a",
        "fingerprint": new_request("a", "p", body=b'{"x": 1}').fingerprint,
        "keep_ms": "600000",
        "entry": entry,
    }
    assert await pool.store.commands.get(pool.keys.body("a")) == b'{"x": 1}'
    assert await pool.counters() == {"accepted": 1}


async def test_the_entry_has_what_scheduling_needs_and_the_record_has_all(pool: PoolDriver) -> None:
    scheduling = {
        "tenant": "t",
        "model": "lora",
        "slo_ms": 500,
        "timeout_ms": 9000,
        "prompt_tokens": 12,
        "max_tokens": 34,
        "tpot_slo_ms": 60,
        "session": "s1",
    }
    await pool.accept("a", stream=True, trace=TraceContext("x", "00-1-2-01"), **scheduling)
    expected = {name: str(value) for name, value in scheduling.items()}
    (entry,) = await intake(pool)
    assert entry.keys() == {"id", "priority", "arrived_ms", "kind", *scheduling}
    assert entry.items() >= expected.items()
    expected |= {"stream": "1", "trace": '{"trace_id":"x","traceparent":"00-1-2-01"}'}
    assert (await pool.record("a")).items() >= expected.items()


@pytest.mark.parametrize("weight", [LEAST_WEIGHT, 0.5, MOST_WEIGHT])
async def test_a_weight_is_written_as_schedulers_read_it(pool: PoolDriver, weight: float) -> None:
    await pool.accept("a", weight=weight)
    (entry,) = await intake(pool)
    assert read_arrival("a", entry).weight == weight


@pytest.mark.parametrize("priority", RequestPriority)
async def test_each_priority_has_its_stream(pool: PoolDriver, priority: RequestPriority) -> None:
    await pool.accept("a", priority=priority)
    for level in RequestPriority:
        assert [e["id"] for e in await intake(pool, level)] == (["a"] if level == priority else [])


@pytest.mark.parametrize("body", [b"", b"\x00\xff\r\n", b"x" * 1_000_000], ids=["empty", "binary", "1 MB"])
async def test_a_body_is_kept_byte_by_byte(pool: PoolDriver, body: bytes) -> None:
    await pool.accept("a", body=body)
    assert await pool.store.commands.get(pool.keys.body("a")) == body


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({}, Exists(RequestState.QUEUED, same_body=True, same_tenant=True)),
        ({"body": b"other"}, Exists(RequestState.QUEUED, same_body=False, same_tenant=True)),
        ({"tenant": "other"}, Exists(RequestState.QUEUED, same_body=True, same_tenant=False)),
        ({"priority": RequestPriority.LOW}, Exists(RequestState.QUEUED, same_body=True, same_tenant=True)),
    ],
    ids=["the same", "other body", "other tenant", "other priority"],
)
async def test_an_id_that_exists_is_not_taken_twice(pool: PoolDriver, second: dict[str, Any], expected: Exists) -> None:
    await pool.accept("a", tenant="t", body=b"{}")
    before = await pool.record("a")
    again = {"tenant": "t", "body": b"{}", "ticket": "second", "inbox": "elsewhere"} | second
    assert await pool.accept("a", **again) == [expected]
    assert await pool.record("a") == before
    assert await pool.store.commands.get(pool.keys.body("a")) == b"{}"
    assert len(await intake(pool)) == 1
    assert await intake(pool, RequestPriority.LOW) == []
    assert await pool.counters() == {"accepted": 1}


@pytest.mark.parametrize("state", RequestState)
async def test_an_id_exists_in_every_state(pool: PoolDriver, state: RequestState) -> None:
    await pool.engine()
    match state:
        case RequestState.QUEUED:
            await pool.accept("a")
        case RequestState.WAITING:
            await pool.waiting("a")
        case RequestState.ASSIGNED:
            await pool.assigned("a")
        case RequestState.RUNNING:
            await pool.running("a")
        case RequestState.FINISHED:
            await pool.running("a")
            await pool.finish("a")
    assert await pool.accept("a", ticket="second") == [Exists(state, same_body=True, same_tenant=True)]


async def test_the_same_submission_sent_again_is_accepted_and_there_once(pool: PoolDriver) -> None:
    # Its first reply was lost, so it carries the same ticket.
    await pool.accept("a")
    assert [type(result) for result in await pool.accept("a")] == [Accepted]
    assert len(await intake(pool)) == 1
    assert await pool.counters() == {"accepted": 1}


async def test_an_id_can_be_used_again_when_its_result_has_expired(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.finish("a")
    await pool.store.commands.delete(pool.keys.record("a"), pool.keys.output("a"))  # as its TTL would
    assert [type(result) for result in await pool.accept("a", ticket="second")] == [Accepted]


async def test_full_counts_what_waits_and_what_nobody_has_read(pool: PoolDriver) -> None:
    pool.limits = AcceptLimits(max_waiting=3, without_engine=True)
    await pool.waiting("a")
    await pool.accept("b", priority=RequestPriority.CRITICAL)
    results = await pool.accept("c", "d", "e")
    full = Full(3, Reason.QUEUE_FULL, ("a",))
    assert results == [Accepted(START_MS + 3), full, full]
    assert await pool.state("d") is None
    assert not await pool.store.commands.exists(pool.keys.body("d"))
    assert await pool.counters() == {"accepted": 3, "queue_full": 2}


async def test_what_runs_does_not_count_as_waiting(pool: PoolDriver) -> None:
    pool.limits = AcceptLimits(max_waiting=1)
    await pool.engine()
    await pool.running("a")
    assert await pool.accept("b") == [Accepted(START_MS + 2)]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, NoEngine()),
        (EngineState.STARTING, NoEngine()),
        (EngineState.ERROR, NoEngine()),
        (EngineState.DRAINING, NoEngine()),
        (EngineState.READY, Accepted(START_MS + 1)),
    ],
)
async def test_a_pool_without_a_ready_engine(pool: PoolDriver, state: EngineState | None, expected: object) -> None:
    pool.limits = AcceptLimits()
    if state is not None:
        await pool.engine(state=state)
    assert await pool.accept("a") == [expected]


async def test_a_ready_engine_need_not_have_room(pool: PoolDriver) -> None:
    pool.limits = AcceptLimits()
    await pool.engine(slots=1)
    await pool.running("a")
    assert [type(result) for result in await pool.accept("b")] == [Accepted]


async def test_a_batch_keeps_its_order_and_each_gets_its_own_answer(pool: PoolDriver) -> None:
    await pool.accept("known", ticket="first")
    results = await pool.accept("a", "known", "b", "a", "c", ticket="second")
    assert results[1] == Exists(RequestState.QUEUED, same_body=True, same_tenant=True)
    # Twice in one batch: the second finds the first, and as the ticket is the same it is taken for it.
    assert results[3] == Accepted(0.0)
    arrived = [results[i].arrived_ms for i in (0, 2, 4) if isinstance(results[i], Accepted)]
    assert arrived == sorted(set(arrived))
    assert len(arrived) == 3
    assert [entry["id"] for entry in await intake(pool)] == ["known", "a", "b", "c"]
    times = [float(entry["arrived_ms"]) for entry in await intake(pool)]
    assert times == sorted(set(times))


async def test_for_how_long_the_result_is_kept(pool: PoolDriver) -> None:
    pool.limits = AcceptLimits(without_engine=True, keep_result_ms=1234)
    await pool.engine()
    await pool.running("a")
    await pool.finish("a")
    for key in (pool.keys.record("a"), pool.keys.output("a")):
        assert 0 < await pool.store.commands.pttl(key) <= 1234


async def test_the_time_is_the_servers_own(redis_settings: RedisSettings) -> None:
    store = Store(redis_settings)
    try:
        seconds, micros = await store.commands.time()
        limits = AcceptLimits(without_engine=True)
        (result,) = await accept(store, "p", [new_request("a", "p")], limits)
        assert isinstance(result, Accepted)
        assert 0 <= result.arrived_ms - (seconds * 1000 + micros / 1000) < 5000
    finally:
        await store.close()
