"""What the same server does with the commands of one assignment when they come pipelined, without scripts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

import hiredis

from sagellm_control.wire.keys import SCHEDULER_GROUP
from sagellm_control.wire.priority import RequestPriority

from ..system import HOST
from .pool import BODY, Pool

BATCH = 128
"""Requests a write, as the scheduler commits them."""
WRITES_UNDER_WAY = 2
"""One is carried out while the next is on its way."""
_READ_BYTES = 1 << 20

Command = Sequence[str | int | bytes]


async def raw_rate(pool: Pool, number: int) -> tuple[float, float]:
    """Requests/s and commands/s for what ``admit`` does with an arrival that goes straight to an engine."""
    number -= number % BATCH
    await pool.set_engines(1, number)
    ids = await pool.accept(number, RequestPriority.NORMAL, "raw")
    stream = pool.keys.intake[RequestPriority.NORMAL]
    entries = [entry.decode() for entry, _ in await pool.store.commands.xrange(stream)]
    batches = [
        _commands(pool, stream, ids[at : at + BATCH], entries[at : at + BATCH]) for at in range(0, number, BATCH)
    ]
    writes = [b"".join(_packed(command) for command in batch) for batch in batches]
    reader, writer = await asyncio.open_connection(HOST, int(pool.url.rpartition(":")[2].partition("/")[0]))
    replies = hiredis.Reader()
    began = time.monotonic()
    try:
        for write in writes[:WRITES_UNDER_WAY]:
            writer.write(write)
        for i, batch in enumerate(batches):
            for _ in batch:
                while (reply := replies.gets()) is False:
                    replies.feed(await reader.read(_READ_BYTES))
                if isinstance(reply, hiredis.ReplyError):
                    raise reply
            if i + WRITES_UNDER_WAY < len(writes):
                writer.write(writes[i + WRITES_UNDER_WAY])
        seconds = time.monotonic() - began
    finally:
        writer.close()
    await pool.forget(ids)
    return number / seconds, sum(map(len, batches)) / seconds


def _packed(command: Command) -> bytes:
    # Its stub wants a tuple of one item; a command has several.
    return hiredis.pack_command(cast(Any, tuple(command)))


def _commands(pool: Pool, stream: str, ids: Sequence[str], entries: Sequence[str]) -> list[Command]:
    keys, engine = pool.keys, "engine-0"
    row, reservations, assigned = keys.engine(engine), keys.reservations(engine), keys.assigned(engine)
    commands: list[Command] = [("XREADGROUP", "GROUP", SCHEDULER_GROUP, "raw", "COUNT", BATCH, "STREAMS", stream, ">")]
    for request in ids:
        record, body = keys.record(request), keys.body(request)
        now = "1700000000000.000"
        fields = ("id", request, "attempt", 1, "kind", "chat", "priority", 2, "arrived_ms", now, "assigned_ms", now)
        more = ("stream", 1, "timeout_at_ms", now, "tenant", "benchmark", "body", BODY)
        wanted = ("kind", "priority", "stream", "arrived_ms", "timeout_ms", "tenant", "trace")
        commands += [
            ("HMGET", record, "state", "entry", "arrived_ms", "timeout_ms"),
            ("HSET", record, "rank", now),
            ("HMGET", record, *wanted),
            ("HINCRBY", record, "attempt", 1),
            ("STRLEN", body),
            ("GET", body),
            ("XADD", assigned, "*", *fields, *more),
            ("SADD", reservations, request),
            ("HSET", record, "state", "assigned", "engine", engine, "entry", "1700000000000-0", "assigned_ms", now),
            ("HMGET", row, "state", "slots", "prefetch"),
            ("SCARD", reservations),
            ("ZADD", keys.room, 100, engine),
        ]
    commands += [("XACK", stream, SCHEDULER_GROUP, *entries), ("XDEL", stream, *entries)]
    return commands
