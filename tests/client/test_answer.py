"""An answer's events, each once and in order, also where the attempt changes in the middle."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sagellm_control.client import answer as answer_module
from sagellm_control.client import resubmission
from sagellm_control.client.answer import LOST, ROLLED_BACK, Answer
from sagellm_control.client.resubmission import AwaitedReturn
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.event import CHUNK, END, Event

from ..pool_driver import PoolDriver


@pytest.fixture
async def taken_over(pool: PoolDriver) -> list[Event]:
    """The log of a request that was gone on with by a second attempt, and ended there."""
    await pool.engine("e1")
    await pool.engine("e2")
    await pool.running("a", stream=True, continuable=True)
    for sequence in (1, 2, 3):
        await pool.append("a", sequence, b"data: %d\n\n" % sequence)
    await pool.requeue("a", Cause.LAPSED)
    await pool.assign(Move("a", 1, "e2"))
    await pool.append("a", 1, b"data: 4\n\n", attempt=2, engine="e2")
    await pool.finish("a", 2, attempt=2, engine="e2")
    events = await pool.events("a")
    assert [event.position for event in events] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
    return events


@pytest.mark.parametrize("lost", [set(), {2}, {1, 2}, {0, 1, 2}, {3}, {2, 3}, {0}, {0, 1, 2, 3}])
async def test_whatever_is_lost_on_the_way_comes_from_the_log(
    pool: PoolDriver, taken_over: list[Event], lost: set[int]
) -> None:
    """The first event of another attempt does not tell whether the one before has said all that came here."""
    answer = Answer(pool.store, pool.name, "a")
    answer.read = True
    for number, event in enumerate(taken_over):
        if number not in lost:
            answer.push(event)
    got: list[Event] = []
    while not answer.ended and (event := await answer.next(0.2)) is not None:
        got.append(event)
    assert got == taken_over


async def test_not_one_event_of_the_old_attempt_behind_the_new_one(pool: PoolDriver, taken_over: list[Event]) -> None:
    answer = Answer(pool.store, pool.name, "a", after=(2, 1))
    answer.read = True
    for event in taken_over[:3]:
        answer.push(event)
    assert await answer.next(0.2) == taken_over[4]


async def test_begun_anew_it_is_what_the_log_says(pool: PoolDriver, taken_over: list[Event]) -> None:
    """The end of another request, which was turned away under this id before, is none of its."""
    answer = Answer(pool.store, pool.name, "a")
    answer.read = True
    answer.push(Event("a", 0, 1, END, b"{}"))
    answer.begin_anew()
    got = [await answer.next(0.2) for _ in taken_over]
    assert (got, answer.ended) == (taken_over, True)


def _listener(pool: PoolDriver) -> Answer:
    answer = Answer(pool.store, pool.name, "a")
    answer.read = True
    answer.lost_record = AwaitedReturn(pool.store, pool.name, "a", "listener")
    answer.check_log()
    return answer


async def test_a_listener_of_a_lost_request_is_told_in_time_that_nothing_has_come(pool: PoolDriver) -> None:
    """Whoever reads it has a connection to keep open while the record may come back."""
    answer = _listener(pool)
    async with asyncio.timeout(resubmission.RETURNS_WITHIN_S / 2):
        assert [await answer.next(0.01), await answer.next(0.01)] == [None, None]
    await pool.engine("e1")
    await pool.running("a", stream=True)  # whoever holds it has submitted it again
    await pool.append("a", 1, b"data: 1\n\n")
    event = await answer.next(5.0)
    assert (event and event.payload, answer.ended) == (b"data: 1\n\n", False)


async def test_a_listener_of_a_request_that_stays_lost_is_told_so(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resubmission, "RETURNS_WITHIN_S", 0.3)
    answer = _listener(pool)
    event = await answer.next(5.0)
    assert (event and event.payload, answer.ended) == (LOST, True)


@pytest.fixture
async def set_back(pool: PoolDriver) -> tuple[Answer, list[Event]]:
    """Three events were heard and lost, and the first attempt was made anew: the answer, and what its log has now."""
    answer = Answer(pool.store, pool.name, "a")
    answer.read = True
    for sequence in (1, 2, 3):
        answer.push(Event("a", 1, sequence, CHUNK, b"data: old %d\n\n" % sequence))
    await pool.engine("e1")
    await pool.running("a", stream=True)
    for sequence in (1, 2, 3, 4):
        await pool.append("a", sequence, b"data: new %d\n\n" % sequence)
    return answer, await pool.events("a")


async def test_what_was_heard_is_not_gone_on_with_by_another_answer(
    set_back: tuple[Answer, list[Event]],
) -> None:
    answer, _ = set_back
    heard = [await answer.next(0.2) for _ in range(3)]
    assert [event and event.payload for event in heard] == [b"data: old %d\n\n" % n for n in (1, 2, 3)]
    answer.check_log()  # its inbox is subscribed again
    event = await answer.next(0.2)
    assert (event and event.payload, answer.ended) == (ROLLED_BACK, True)


async def test_what_nobody_has_read_is_forgotten_for_the_answer_that_counts(
    set_back: tuple[Answer, list[Event]],
) -> None:
    answer, log = set_back
    answer._events.clear()  # pyright: ignore[reportPrivateUsage] - as if none of it had been handed out
    answer.check_log()
    assert [await answer.next(0.2) for _ in log] == log


async def test_a_beginning_that_is_heard_again_is_looked_into(set_back: tuple[Answer, list[Event]]) -> None:
    """A subscription may outlive a failover of another node."""
    answer, log = set_back
    for _ in range(3):
        await answer.next(0.2)
    for event in log:
        answer.push(event)
    event = await answer.next(0.2)
    assert (event and event.payload, answer.ended) == (ROLLED_BACK, True)


async def test_another_attempt_behind_a_log_that_is_gone(pool: PoolDriver) -> None:
    answer = Answer(pool.store, pool.name, "a")
    answer.read = True
    answer.push(Event("a", 1, 1, CHUNK, b"data: old\n\n"))
    await answer.next(0.2)
    await pool.engine("e1")
    await pool.running("a", stream=True)
    await pool.requeue("a", Cause.RETURNED)
    await pool.assign(Move("a", 1, "e1"))
    await pool.append("a", 1, b"data: new\n\n", attempt=2)
    for event in await pool.events("a"):
        answer.push(event)
    event = await answer.next(0.2)
    assert (event and event.payload, answer.ended) == (ROLLED_BACK, True)


@pytest.mark.parametrize("gone", [1, 2])
async def test_a_log_with_a_hole_is_no_answer(pool: PoolDriver, taken_over: list[Event], gone: int) -> None:
    """A failover had lost it, and the worker wrote on."""
    await pool.store.commands.xdel(pool.keys.output("a"), f"1-{gone}")
    answer = Answer(pool.store, pool.name, "a")
    answer.read = True
    answer.check_log()
    got: list[Event] = []
    while not answer.ended and (event := await answer.next(0.2)) is not None:
        got.append(event)
    assert got[:-1] == taken_over[: gone - 1]
    assert got[-1].payload == ROLLED_BACK


async def test_of_an_answer_whose_reader_does_not_keep_up_only_so_much_is_kept(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_module, "MOST_EVENTS", 4)
    await pool.engine("e1")
    await pool.running("a", stream=True)
    for sequence in range(1, 31):
        await pool.append("a", sequence, b"data: %d\n\n" % sequence)
    await pool.finish("a", 31)
    log = await pool.events("a")
    answer = Answer(pool.store, pool.name, "a")
    answer.read = True
    kept: list[int] = []
    for event in log:
        answer.push(event)
        kept.append(len(answer._events))  # pyright: ignore[reportPrivateUsage]
    got: list[Event] = []
    while not answer.ended and (event := await answer.next(5.0)) is not None:
        got.append(event)
        kept.append(len(answer._events))  # pyright: ignore[reportPrivateUsage]
    assert (got, max(kept)) == (log, 4)


async def heard(pool: PoolDriver, *sequences: int) -> Answer:
    """An answer that has handed out these events of the first attempt, which runs."""
    answer = Answer(pool.store, pool.name, "a")
    answer.read = True
    await pool.engine("e1")
    await pool.running("a", stream=True)
    for sequence in sequences:
        answer.push(Event("a", 1, sequence, CHUNK, b"data: %d\n\n" % sequence))
        await answer.next(0.2)
    return answer


@pytest.mark.parametrize("first", [3, 4])
async def test_a_worker_that_speaks_on_is_heard_on(pool: PoolDriver, first: int) -> None:
    """A failover has lost what it said last, and it repeats that, or goes on: nothing of it is missing here."""
    answer = await heard(pool, 1, 2, 3)
    answer.check_log()
    assert await answer.next(0.1) is None
    for sequence in range(first, 6):
        await pool.append("a", sequence, b"data: %d\n\n" % sequence)
        answer.push(Event("a", 1, sequence, CHUNK, b"data: %d\n\n" % sequence))
    events = [await answer.next(0.2), await answer.next(0.2)]
    assert [event and event.position for event in events] == [(1, 4), (1, 5)]


async def test_an_attempt_that_is_made_anew_and_ends_early_is_not_taken_for_the_end(pool: PoolDriver) -> None:
    answer = await heard(pool, 1, 2, 3)
    answer.check_log()
    assert await answer.next(0.1) is None
    await pool.append("a", 1, b"data: new\n\n")
    await pool.finish("a", 2)
    for event in await pool.events("a"):
        answer.push(event)
    event = await answer.next(0.2)
    assert event is not None
    # Whoever comes back names the last event that it had; this one has no number that another could have.
    assert (event.payload, event.position, answer.ended) == (ROLLED_BACK, (1, 0), True)


async def test_what_is_said_late_of_a_lost_request_keeps_nobody_busy(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    read_log = Answer._read_log  # pyright: ignore[reportPrivateUsage]

    async def said_late(self: Answer, *about: Any) -> Any:
        nonlocal looks
        looks += 1
        found = await read_log(self, *about)
        if looks == 1:
            self.push(Event("a", 1, 1, CHUNK, b"data: late\n\n"))
            await pool.engine("e1")
            await pool.waiting("a", stream=True, attempt=1000)  # whoever holds it has submitted it again
            await pool.assign(Move("a", 1000, "e1"))
            await pool.append("a", 1, b"data: 1\n\n", attempt=1001)
        return found

    monkeypatch.setattr(Answer, "_read_log", said_late)
    answer = _listener(pool)
    event = await answer.next(5.0)
    assert (event and event.position) == (1001, 1)
    assert looks < 5
