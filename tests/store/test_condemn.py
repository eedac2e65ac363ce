"""condemn: what waits and cannot be read is given up; and what somebody wrote over numbers stops nobody."""

from __future__ import annotations

import pytest

from sagellm_control.store.inspect import pool_depth
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.condemn import condemn
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.store.waiting_line import WaitingLine

from ..pool_driver import PoolDriver


async def waiting(pool: PoolDriver, *request_ids: str) -> None:
    await pool.accept(*request_ids)
    await pool.admit(*(pool.admission(entry) for entry in (await pool.take()).arrivals))
    assert await pool.waiting_ids() == list(request_ids)


async def test_it_is_buried_and_ends(pool: PoolDriver) -> None:
    await waiting(pool, "a")
    assert await condemn(pool.store, pool.name, "a", "a reason")
    assert await pool.waiting_ids() == []
    (copy,) = await pool.dead()
    assert (copy["request"], copy["reason"]) == ("a", "a reason")
    ending = await pool.ending("a")
    assert (ending.outcome, ending.code) == ("dead", "unreadable_record")
    assert (await pool.counters())["dead"] == 1
    assert not await condemn(pool.store, pool.name, "a", "again")
    assert len(await pool.dead()) == 1


async def test_nothing_is_kept_of_one_whose_record_is_gone(pool: PoolDriver) -> None:
    await waiting(pool, "a")
    await pool.store.commands.delete(pool.keys.record("a"))
    for _ in range(2):
        assert not await condemn(pool.store, pool.name, "a", "a reason")
    assert not await pool.store.commands.exists(pool.keys.body("a"))
    assert await pool.counters() == {"accepted": 1, "lost": 1}


async def test_what_does_not_wait_is_left_alone(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    assert not await condemn(pool.store, pool.name, "a", "a reason")
    assert not await condemn(pool.store, pool.name, "nobody", "a reason")
    assert await pool.state("a") == "running"


@pytest.mark.parametrize(
    ("field", "value"),
    [("attempt", b"first"), ("priority", b"soon"), ("arrived_ms", b""), ("timeout_ms", b"{}"), ("keep_ms", b"x" * 99)],
)
async def test_the_line_gives_up_whom_it_cannot_read(pool: PoolDriver, field: str, value: bytes) -> None:
    await waiting(pool, "a", "b")
    await pool.store.commands.hset(pool.keys.record("a"), field, value)
    line = await WaitingLine(pool.store, pool.name).read(0, 10)
    if field == "keep_ms":  # nobody needs it until the end
        assert [w.arrival.id for w in line] == ["a", "b"]
        assert await condemn(pool.store, pool.name, "a", "a reason")
    else:
        assert [w.arrival.id for w in line] == ["b"]
    assert await pool.state("a") == "finished"
    assert 0 < await pool.store.commands.pttl(pool.keys.record("a")) <= 600_000


async def test_a_member_that_is_no_text_is_taken_out(pool: PoolDriver) -> None:
    await pool.engine()
    await waiting_beside(pool)
    (stranger, a) = await WaitingLine(pool.store, pool.name).read(0, 10)
    assert a.arrival.id == "a"
    answer = await pool.assign(Move(stranger.arrival.id, 0, "e1"), Move("a", 0, "e1"))
    assert answer.results == ["gone", "assigned"]
    assert await pool.waiting_ids() == []


async def waiting_beside(pool: PoolDriver) -> None:
    await waiting(pool, "a")
    await pool.store.commands.zadd(pool.keys.waiting, {b"\xff\xfe": 0})


@pytest.mark.parametrize("counter", ["accepted", "completed", "requeued", "failed"])
async def test_a_counter_that_is_no_number_begins_anew(pool: PoolDriver, counter: str) -> None:
    await pool.engine()
    await pool.store.commands.hset(pool.keys.counters, counter, b"\xff")
    assert (await pool_depth(pool.store, pool.name)).counters.get(counter) is None
    await pool.running("a")
    assert await pool.requeue("a", Cause.RETURNED) == "waiting"
    await pool.assign(Move("a", 1, "e1"))
    assert await pool.finish("a", attempt=2)


async def test_a_row_with_words_for_numbers_takes_nothing(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.store.commands.hset(pool.keys.engine("e1"), "slots", "many")
    await waiting(pool, "a")
    answer = await pool.assign(Move("a", 0, "e1"))
    assert answer.results == ["stale"]
    assert await pool.state("a") == "waiting"


@pytest.mark.parametrize("field", ["failures", "lapses", "rank"])
async def test_what_is_given_back_with_words_for_numbers_waits(pool: PoolDriver, field: str) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.store.commands.hset(pool.keys.record("a"), field, "many")
    assert await pool.requeue("a") == "waiting"
    assert await pool.waiting_ids() == ["a"]
