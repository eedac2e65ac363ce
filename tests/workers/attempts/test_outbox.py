"""What a worker says of its attempts: nothing of it waits for all of something else, and nothing overtakes its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from sagellm_control.store.connect import Store
from sagellm_control.store.steps.append import Output, append
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.event import CHUNK
from sagellm_control.wire.states import Stage
from sagellm_workers.adapters.base import EngineAdapter
from sagellm_workers.attempts import outbox as outbox_module
from sagellm_workers.attempts.attempt import Attempt
from sagellm_workers.attempts.outbox import Outbox

from ...pool_driver import BROKEN, DONE, PoolDriver
from ...waiting import wait_until
from ..assignments import assignment

TOKEN = b'data: {"choices":[]}\n\n'


@asynccontextmanager
async def writing(store: Store, row: EngineRow) -> AsyncGenerator[Outbox]:
    """An outbox that writes as soon as whoever has it waits for anything."""
    outbox = Outbox(store, row.pool, row.engine_id, row.worker, max_attempts=3)
    task = asyncio.create_task(outbox.run())
    try:
        yield outbox
    finally:
        task.cancel()
        await asyncio.wait([task])


def attempt_of(request_id: str, outbox: Outbox) -> Attempt:
    return Attempt(assignment(request_id, stream=True), cast(EngineAdapter, None), outbox, "e1")


def say(attempt: Attempt) -> None:
    attempt.pending.append(TOKEN)
    attempt.outbox.output(attempt)


class Asked:
    """What an attempt asked to be done."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []

    def requeue(self, _: Attempt, cause: Cause) -> None:
        self.causes.append(cause)


@pytest.mark.parametrize(("stage", "begun"), [(Stage.WHOLE, Cause.RETURNED), (Stage.DECODE, Cause.STALE)])
def test_a_decode_that_was_begun_is_read_anew(stage: Stage, begun: Cause) -> None:
    # Its blocks may have been fetched, and its engine may still know the id that goes with them.
    asked = Asked()
    attempt = Attempt(assignment(stage=stage), cast(EngineAdapter, None), cast(Outbox, asked), "e1")
    attempt.stop("returned")
    attempt.report_stop()
    Attempt(assignment(stage=stage), cast(EngineAdapter, None), cast(Outbox, asked), "e1").give_back()
    assert asked.causes == [begun, Cause.RETURNED]


async def test_an_end_is_written_while_others_go_on(
    store: Store, pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await pool.engine(slots=4)
    await pool.running("a", "b", "ends", "goes back", stream=True)
    async with writing(store, row) as outbox:
        streams = {name: attempt_of(name, outbox) for name in "ab"}

        async def append_and_go_on(*args: Any) -> list[bool]:
            outputs: Sequence[Output] = args[-1]
            kept = await append(*args)
            for output in outputs:
                say(streams["b" if output.request_id == "a" else "a"])
            return kept

        monkeypatch.setattr(outbox_module, "append", append_and_go_on)
        say(streams["a"])
        outbox.finish(attempt_of("ends", outbox), DONE)
        outbox.requeue(attempt_of("goes back", outbox), Cause.RETURNED)
        for name, state in (("ends", "finished"), ("goes back", "waiting")):
            await wait_until(lambda name=name, state=state: _is(pool, name, state), what=f"{name} is {state}")
        monkeypatch.undo()
        async with asyncio.timeout(20):
            await outbox.written()


async def test_what_goes_back_has_said_all_it_had(
    store: Store, pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MOST_IN_A_CALL", 1)
    row = await pool.engine(slots=4)
    await pool.running("a", "b", "goes back", stream=True)
    async with writing(store, row) as outbox:
        first = attempt_of("goes back", outbox)
        say(first)
        await outbox.written()
        for attempt in (attempt_of("a", outbox), attempt_of("b", outbox), first):
            say(attempt)
        outbox.requeue(first, Cause.FAILED, BROKEN)
        async with asyncio.timeout(20):
            await outbox.written()
    assert [event.type for event in await pool.events("goes back")][:2] == [CHUNK, CHUNK]


async def _is(pool: PoolDriver, request_id: str, state: str) -> bool:
    return await pool.state(request_id) == state
