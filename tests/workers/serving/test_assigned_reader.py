"""The reader runs each assignment once, however often it has to read the assignments again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from sagellm_control.store.connect import Store
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.engine import EngineRow
from sagellm_workers.adapters.base import EngineCall, EngineReply
from sagellm_workers.attempts.outbox import Outbox
from sagellm_workers.serving.assigned_reader import AssignedReader

from ...pool_driver import PoolDriver
from ...waiting import wait_until


class InstantEngine:
    """Answers each call at once, and remembers it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @asynccontextmanager
    async def run(self, call: EngineCall) -> AsyncGenerator[EngineReply, None]:
        self.calls.append(call.request_id)

        async def chunks() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"

        yield EngineReply(200, "text/event-stream", None, chunks())


class SilentEngine:
    """Never answers."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @asynccontextmanager
    async def run(self, call: EngineCall) -> AsyncGenerator[EngineReply, None]:
        self.calls.append(call.request_id)
        await asyncio.Event().wait()
        raise AssertionError("it is cancelled")
        yield


@asynccontextmanager
async def reading(store: Store, row: EngineRow, engine: InstantEngine | SilentEngine) -> AsyncGenerator[Outbox, None]:
    """A reader at work, and its outbox, which does not write until it is run."""
    outbox = Outbox(store, row.pool, row.engine_id, row.worker, max_attempts=3)
    reader = AssignedReader(store, row, cast(Any, engine), outbox)
    task = asyncio.create_task(reader.run())
    try:
        yield outbox
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _blocked_readers(store: Store) -> list[str]:
    """The ids of the connections that wait in a blocking read."""
    return [c["id"] for c in await store.commands.client_list() if c["cmd"] == "xreadgroup" and "b" in c["flags"]]


async def test_an_answer_whose_end_is_not_written_yet_is_not_made_again(store: Store, pool: PoolDriver) -> None:
    engine = InstantEngine()
    row = await pool.engine(slots=4)
    async with reading(store, row, engine) as outbox:
        await pool.assigned("a", stream=True)
        await wait_until(lambda: engine.calls == ["a"], what="it runs")
        # Its end could not be written; the connection is lost, and all that is not settled is read again.
        for connection in await wait_until(lambda: _blocked_readers(store), what="the reader waits for more"):
            await store.commands.client_kill_filter(_id=connection)
        await pool.assigned("b", stream=True)
        await wait_until(lambda: "b" in engine.calls, what="it reads again")
        assert engine.calls == ["a", "b"]
        writing = asyncio.create_task(outbox.run())
        await wait_until(lambda: _both_finished(pool), what="both ends are written")
        writing.cancel()
        await asyncio.wait([writing])
    assert [event.type for event in await pool.events("a")] == ["end"]


async def test_what_is_held_is_not_started_when_the_session_ends(store: Store, pool: PoolDriver) -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    engine = SilentEngine()
    row = await pool.engine(slots=1, prefetch=1)
    async with reading(store, row, engine):
        await pool.assigned("a", "b", stream=True)
        await wait_until(lambda: engine.calls == ["a"], what="the first runs")
        await wait_until(lambda: _all_are_read(store, pool), what="the second is held")
    assert engine.calls == ["a"]
    assert errors == []


async def _all_are_read(store: Store, pool: PoolDriver) -> bool:
    (group,) = await store.commands.xinfo_groups(pool.keys.assigned("e1"))
    return group["pending"] == 2 and bool(await _blocked_readers(store))


async def _both_finished(pool: PoolDriver) -> bool:
    return [await pool.state(name) for name in ("a", "b")] == ["finished", "finished"]


async def test_a_stream_that_was_deleted_gets_its_group_again(store: Store, pool: PoolDriver) -> None:
    """Somebody has made it into another type, and a step has deleted that."""
    engine = InstantEngine()
    row = await pool.engine(slots=4)
    async with reading(store, row, engine):
        await wait_until(lambda: _blocked_readers(store), what="it reads")
        await store.commands.delete(pool.keys.assigned("e1"))
        await pool.assigned("a", stream=True)
        await wait_until(lambda: engine.calls == ["a"], what="it runs")


async def test_a_wish_to_cancel_that_is_garbage_stops_nothing_else(store: Store, pool: PoolDriver) -> None:
    engine = InstantEngine()
    row = await pool.engine(slots=4)
    async with reading(store, row, engine):
        await store.commands.xadd(pool.keys.assigned("e1"), {"id": "x", "attempt": "1", "cancel": b"\xff"})
        await pool.assigned("a", stream=True)
        await wait_until(lambda: engine.calls == ["a"], what="it runs")


async def test_an_answer_of_which_a_part_was_lost_is_not_gone_on_with(store: Store, pool: PoolDriver) -> None:
    """A failover may leave a log with a hole."""
    engine = InstantEngine()
    await pool.engine("e1")
    row = await pool.engine("e2")
    await pool.running("a", stream=True, continuable=True)
    for sequence in (1, 2, 3):
        await pool.append("a", sequence, b"data: %d\n\n" % sequence)
    await store.commands.xdel(pool.keys.output("a"), "1-2")
    await pool.requeue("a", Cause.LAPSED)
    async with reading(store, row, engine) as outbox:
        await pool.assign(Move("a", 1, "e2"))
        writing = asyncio.create_task(outbox.run())

        async def is_finished() -> bool:
            return await pool.state("a") == "finished"

        await wait_until(is_finished, what="it ends")
        writing.cancel()
        await asyncio.wait([writing])
    assert ((await pool.ending("a")).code, engine.calls) == ("request_lost", [])
