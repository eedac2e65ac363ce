"""The dead stream: requests that were given up, with their history, and sent again."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from sagellm_control.store.dead import NotRetried, drop_dead, find_dead, list_dead, retry_dead
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.engines import retire_engine
from sagellm_control.store.steps.requeue import MAX_LAPSES, Cause
from sagellm_control.wire.states import EngineState
from sagellm_control.wire.trace_context import TraceContext

from ..pool_driver import BROKEN, LEASE_MS, PoolDriver
from ..pool_state import read_state, violations
from ..request_fields import EVERY_FIELD, recorded_as

NOT_SENT_AGAIN = {"queue_ttl_ms", "orphan_grace_ms"}
"""It waits for as long as it takes, and nobody listens to it."""


async def lapse(pool: PoolDriver, engine: str) -> None:
    """The engine's worker is gone; what it had is given back."""
    pool.clock.advance(LEASE_MS)
    await retire_engine(pool.store, pool.name, engine, "", EngineState.ERROR, "")


async def kill(pool: PoolDriver, request_id: str, **fields: object) -> None:
    """The request's engine fails it once, and then as many workers die of it as it takes."""
    await pool.engine("e0", slots=4)
    await pool.running(request_id, engine="e0", **fields)
    assert await pool.requeue(request_id, Cause.FAILED, engine="e0") == "waiting"
    for number in range(1, MAX_LAPSES + 1):
        engine = f"e{number}"
        await pool.engine(engine, slots=4)
        answer = await pool.assign(Move(request_id, number, engine))
        assert answer.results == ["assigned"]
        await pool.claim(request_id, number + 1, engine=engine)
        await lapse(pool, engine)


async def test_a_poison_request_is_kept_with_its_history(pool: PoolDriver) -> None:
    await kill(pool, "poison", tenant="team-a", max_tokens=7)
    assert (await pool.record("poison"))["outcome"] == "dead"
    (letter,) = await list_dead(pool.store)
    assert (letter.request_id, letter.pool, letter.reason) == ("poison", pool.name, "its worker died 3 times")
    assert (letter.deliveries, letter.failures, letter.lapses) == (4, 1, 3)
    assert letter.engines == ["e0", "e1", "e2", "e3"]
    assert letter.errors == [
        "1 e0 engine_broken (It broke.)",
        "2 e1 its worker was lost",
        "3 e2 its worker was lost",
        "4 e3 its worker was lost",
    ]
    assert (letter.kind, letter.priority, letter.tenant, letter.can_retry) == ("chat", "normal", "team-a", True)
    assert letter.body_bytes == len(b'{"prompt":"poison"}')


async def test_failures_are_no_lapses_and_lapses_no_failures(pool: PoolDriver) -> None:
    """A killed worker does not use up the tries of a request, and a failing engine does not make it poison."""
    await pool.engine("e1", slots=4)
    await pool.running("a", "b")
    for attempt in (1, 2):
        assert await pool.requeue("a", Cause.FAILED, attempt=attempt, max_failures=3) == "waiting"
        await pool.assign(Move("a", attempt, "e1"))
        await pool.claim("a", attempt + 1)
    await lapse(pool, "e1")
    assert [await pool.state(r) for r in "ab"] == ["waiting", "waiting"]
    record = await pool.record("a")
    assert (record["attempt"], record["failures"], record["lapses"]) == ("3", "2", "1")
    assert await list_dead(pool.store) == []


async def test_a_retry_is_a_new_request_of_the_same_content(pool: PoolDriver) -> None:
    await kill(pool, "poison", tenant="team-a", priority=1, slo_ms=50, max_tokens=7, stream=True)
    (letter,) = await find_dead(pool.store, "poison")
    retried = await retry_dead(pool.store, letter)
    assert retried.request_id == f"retry-{letter.entry}"
    assert await pool.dead() == []
    old, new = await pool.record("poison"), await pool.record(retried.request_id)
    assert (old["state"], old["outcome"]) == ("finished", "dead"), "it has ended, and ends once"
    same = ("kind", "priority", "tenant", "slo_ms", "max_tokens", "stream", "fingerprint")
    assert {name: new[name] for name in same} == {name: old[name] for name in same}
    assert TraceContext.decode(new["trace"]) == TraceContext("poison")
    assert not {"attempt", "failures", "lapses", "excluded", "excluded_ms", "errors"} & new.keys()
    await pool.engine("e9")
    (entry,) = (await pool.take()).arrivals
    assert (await pool.admit(pool.admission(entry, engine="e9"))).results == ["assigned"]
    assert (await pool.assigned_entries("e9"))[0]["body"] == '{"prompt":"poison"}'
    await pool.finish(retried.request_id, engine="e9")
    assert violations(await read_state(pool.store, pool.keys)) == []


async def test_a_retry_has_each_field_of_the_request(pool: PoolDriver) -> None:
    given = EVERY_FIELD | {"timeout_ms": 10**8}
    del given["stage"], given["attempt"]
    await kill(pool, "poison", **given)
    (letter,) = await find_dead(pool.store, "poison")
    retried = await retry_dead(pool.store, letter)
    old, new = await pool.record("poison"), await pool.record(retried.request_id)
    names = {name for name in given if new.get(recorded_as(name)) != old[recorded_as(name)]}
    assert names == NOT_SENT_AGAIN, "another field: does a retry have it?"


async def test_a_retry_that_is_made_twice_makes_one_request(pool: PoolDriver) -> None:
    await kill(pool, "poison")
    (letter,) = await list_dead(pool.store)
    answers = await asyncio.gather(*(retry_dead(pool.store, letter) for _ in range(5)), return_exceptions=True)
    made = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert made
    assert {answer.request_id for answer in made} == {f"retry-{letter.entry}"}
    assert all(isinstance(answer, NotRetried) for answer in answers if isinstance(answer, BaseException))
    assert (await pool.counters())["accepted"] == 2
    with pytest.raises(NotRetried, match="is gone"):
        await retry_dead(pool.store, letter)
    for entry in (await pool.take()).arrivals:
        await pool.admit(pool.admission(entry))


async def test_garbage_is_listed_and_is_not_retried(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.store.commands.xadd(pool.keys.dead, {"reason": "no id", "request": "unreadable", "x": b"\xff<b>"})
    (letter,) = await list_dead(pool.store, pool.name)
    assert (letter.can_retry, letter.record) == (False, {"x": "\ufffd<b>"})
    with pytest.raises(NotRetried, match="is no whole request: no id"):
        await retry_dead(pool.store, letter)
    assert await drop_dead(pool.store, [letter]) == 1
    assert await drop_dead(pool.store, [letter]) == 0


async def test_pages(pool: PoolDriver) -> None:
    await pool.engine()
    for number in range(25):
        await pool.store.commands.xadd(pool.keys.dead, {"reason": "so", "request": f"r{number}"})
    seen: list[str] = []
    before = "+"
    while page := await list_dead(pool.store, limit=10, before=before):
        seen += [letter.request_id for letter in page]
        before = page[-1].entry
    assert seen == [f"r{number}" for number in reversed(range(25))]
    (third,) = await find_dead(pool.store, "r3")
    assert await find_dead(pool.store, third.entry) == [third]
    assert await find_dead(pool.store, "r99") == []
    assert await find_dead(pool.store, "0-1") == []


async def test_records_that_somebody_damaged(pool: PoolDriver) -> None:
    await pool.engine("e0")
    for record in (
        {"kind": "chat", "priority": "77"},
        {"kind": "tea", "priority": "1", "attempt": "x"},
        {"lapses": "-"},
    ):
        fields = {"request": "r", "reason": "why", "body": "{}", "record": json.dumps(record)}
        await pool.store.commands.xadd(pool.keys.dead, fields)
    letters = await list_dead(pool.store)
    assert [(letter.can_retry, letter.deliveries, letter.lapses) for letter in letters] == [(False, 0, 0)] * 3
    for letter in letters:
        with pytest.raises(NotRetried, match="is no whole request: why"):
            await retry_dead(pool.store, letter)


async def test_an_error_of_several_lines_is_one_of_the_history(pool: PoolDriver) -> None:
    """A traceback, say; and its words are no engines."""
    traceback = replace(BROKEN, message="CUDA error\nCompile with more\nFor debugging")
    await pool.engine("e1")
    await pool.running("a")
    await pool.requeue("a", Cause.FAILED, last_error=traceback, max_failures=9)
    assert (await pool.record("a"))["errors"] == "1 e1 engine_broken (CUDA error Compile with more For debugging)"


async def test_the_history_says_more_than_a_client_is_told(pool: PoolDriver) -> None:
    await pool.engine("e1")
    await pool.running("a")
    told = replace(BROKEN, message="engine e1 broke off")
    await pool.requeue("a", Cause.FAILED, last_error=told, reason="engine http://10.0.0.7:1 broke off", max_failures=1)
    assert (await pool.record("a"))["errors"] == "1 e1 engine_broken (engine http://10.0.0.7:1 broke off)"
    assert (await pool.ending("a")).message == "engine e1 broke off"
