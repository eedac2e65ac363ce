"""Invariant 8. The stream is whole: every token once and in order, whatever pub/sub lost."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from sagellm_control.client.answer import Answer
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.event import END, Event

from ..pool_driver import PoolDriver

PIECES = 20


async def answered(pool: PoolDriver, request_id: str = "a") -> list[Event]:
    """A whole answer, in its second attempt; the events as they were published."""
    await pool.engine(slots=9)
    await pool.running(request_id)
    await pool.requeue(request_id, Cause.RETURNED)
    await pool.assign(Move(request_id, 1, "e1"))
    await pool.claim(request_id, 2)
    for sequence in range(1, PIECES + 1):
        assert await pool.append(request_id, sequence, f"data: {sequence}\n\n".encode(), attempt=2)
    assert await pool.finish(request_id, PIECES + 1, attempt=2)
    return await pool.events(request_id)


async def read_all(answer: Answer) -> list[Event]:
    found: list[Event] = []
    while not answer.ended:
        event = await answer.next(0.01)
        if event is not None:
            found.append(event)
        assert len(found) < 1000
    return found


LOSSES: dict[str, Callable[[list[Event]], list[Event]]] = {
    "nothing is lost": lambda events: events,
    "everything is lost": lambda _: [],
    "the first is lost": lambda events: events[1:],
    "the end is lost": lambda events: events[:-1],
    "every second is lost": lambda events: events[::2],
    "all but the end are lost": lambda events: events[-1:],
    "everything comes twice": lambda events: [event for event in events for _ in range(2)],
    "all of it comes again": lambda events: events + events,
    "out of order": lambda events: random.Random(8).sample(events, len(events)),
    "backwards": lambda events: events[::-1],
}


@pytest.mark.parametrize("loss", LOSSES)
async def test_the_stream_is_whole_whatever_pubsub_does(pool: PoolDriver, loss: str) -> None:
    events = await answered(pool)
    assert [event.position for event in events] == [(2, n) for n in range(1, PIECES + 2)]
    assert [event.type for event in events][-1] == END
    answer = Answer(pool.store, pool.name, "a")
    for event in LOSSES[loss](events):
        answer.push(event)
    assert await read_all(answer) == events


async def test_the_stream_is_whole_when_read_while_it_is_written(pool: PoolDriver) -> None:
    chance = random.Random(9)
    await pool.engine()
    await pool.running("a")
    answer = Answer(pool.store, pool.name, "a")
    found: list[Event] = []
    for sequence in range(1, 60):
        if sequence < 59:
            await pool.append("a", sequence, str(sequence).encode())
        else:
            await pool.finish("a", sequence)
        last = (await pool.events("a"))[-1]
        for _ in range(chance.choice((0, 0, 1, 2))):
            answer.push(last)
        if chance.random() < 0.3:
            event = await answer.next(0.001)
            found += [event] if event else []
    found += await read_all(answer)
    assert found == await pool.events("a")


@pytest.mark.parametrize("position", [(0, 0), (2, 1), (2, 7), (2, PIECES)])
async def test_the_stream_is_whole_from_any_position_on(pool: PoolDriver, position: tuple[int, int]) -> None:
    events = await answered(pool)
    answer = Answer(pool.store, pool.name, "a", after=position)
    answer.check_log()
    assert await read_all(answer) == [event for event in events if event.position > position]


async def test_the_end_is_told_even_when_nothing_is_left(pool: PoolDriver) -> None:
    await answered(pool)
    await pool.store.commands.delete(pool.keys.record("a"), pool.keys.output("a"))
    answer = Answer(pool.store, pool.name, "a")
    (event,) = await read_all(answer)
    assert event.type == END
    assert b"request_lost" in event.payload
