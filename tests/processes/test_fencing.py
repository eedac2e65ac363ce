"""SIGSTOP past the lease in mid-answer, then SIGCONT: the worker changes nothing, and none of its tokens gets out."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from sagellm_control.store.inspect import server_ms
from sagellm_control.wire.event import Event, read_frames
from sagellm_control.wire.keys import PoolKeys

from ..waiting import wait_until
from .chats import MODEL, Chat, stream_chat
from .real_processes import RealProcesses

LEASE_S = 1.0
RECOVERED_WITHIN_S = 2.0
"""Promised, after the lease has lapsed; the test allows as much again for a busy machine."""


async def test_a_worker_that_slept_through_its_lease_says_nothing_more(processes: RealProcesses) -> None:
    engine = await processes.engine("--tpot-ms", "20")
    worker = await processes.worker(engine, flags=("--lease-s", str(LEASE_S)))
    await processes.start("scheduler")
    _, url = await processes.gateway()
    store, keys = processes.store, processes.store.keys.pool(MODEL)
    chat = Chat("who speaks to me", 300)
    task = asyncio.create_task(stream_chat(processes.session, url, chat.prompt, chat.tokens, chat))
    await wait_until(lambda: len(chat.pieces) > 5, what="the answer streams")
    (engine_id,) = [view.engine_id for view in await processes.engines()]
    session = (await processes.engines())[0].worker
    worker.signal(signal.SIGSTOP)
    lapses_at = await store.commands.zscore(keys.leases, engine_id)

    async def is_nobodys() -> bool:
        return await store.commands.hget(keys.engine(engine_id), "worker") == b""

    await wait_until(is_nobodys, what="its lease is given up")
    late_s = (await server_ms(store, MODEL) - lapses_at) / 1000
    assert 0 <= late_s < 2 * RECOVERED_WITHIN_S, f"recovered {late_s:.1f} s after the lease had lapsed"
    written = await _positions(processes, keys, chat.request_id)
    inbox = (await store.commands.hget(keys.record(chat.request_id), "inbox")).decode()
    async with store.subscriber().pubsub() as listener:
        await listener.subscribe(inbox)
        await listener.get_message(timeout=5)
        # The engine has gone on talking: hundreds of tokens wait in the worker's socket.
        worker.signal(signal.SIGCONT)

        async def is_back() -> bool:
            holder = (await processes.engines())[0].worker
            return holder not in ("", session)

        await wait_until(is_back, what="the worker has registered again")
        await asyncio.wait_for(task, 30)
        heard: list[Event] = []
        while (message := await listener.get_message(timeout=0.2)) is not None:
            published: Any = message["data"]
            heard += [frame for frame in read_frames(published) if frame.request_id == chat.request_id]
    assert [frame for frame in heard if frame.attempt == 1] == []
    now = await _positions(processes, keys, chat.request_id)
    assert [position for position in now if position.startswith("1-")] == [
        position for position in written if position.startswith("1-")
    ]
    assert chat.expected.startswith(chat.text), "a token is doubled, wrong or missing"
    assert chat.done or chat.error is not None
    assert (await processes.engines())[0].active == 0


async def _positions(processes: RealProcesses, keys: PoolKeys, request_id: str) -> list[str]:
    """What is in the output log."""
    return [entry.decode() for entry, _ in await processes.store.commands.xrange(keys.output(request_id))]
