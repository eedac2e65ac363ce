"""An answer's events, each once and in order, also where the attempt changes in the middle."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_control.client import resubmission
from sagellm_control.client.answer import LOST, Answer
from sagellm_control.client.resubmission import AwaitedReturn
from sagellm_control.store.steps.assign import Placement
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.event import END, Event

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
    await pool.assign(Placement("a", 1, "e2"))
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
