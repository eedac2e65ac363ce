"""An answer's events, each once and in order, also where the attempt changes in the middle."""

from __future__ import annotations

import pytest

from sagellm_control.client.answer import Answer
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
