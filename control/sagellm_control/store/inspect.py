"""Read-only looks at the shared state, as gateways and schedulers need them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from ..wire.engine import EngineRow, read_engine_row
from ..wire.event import Event, read_log_entry
from ..wire.keys import read_name
from ..wire.priority import RequestPriority
from ..wire.request import is_count
from .connect import Store
from .steps.room_note import RoomNote, read_note

log = logging.getLogger(__name__)

ROWS_IN_A_TURN = 100
"""Rows read between two turns of the event loop: about two milliseconds' work."""


class PoolDepth(BaseModel):
    """How much a pool holds."""

    pool: str
    queued: dict[str, int]
    """In the intake streams, by priority."""
    waiting: int
    engines: int
    """READY ones."""
    open_engines: int
    """READY ones with room."""
    counters: dict[str, int]
    backlog: dict[str, int]
    """Requests that no engine has yet, by priority."""
    settings: dict[str, str]
    """What its schedulers follow."""
    cards: dict[str, str] = Field(default={}, exclude=True)
    """Model -> a JSON object: what an engine says of it."""


async def list_pools(store: Store) -> list[str]:
    """The names of all pools, sorted."""
    names = [read_name(name) for name in await store.commands.smembers(store.keys.pools())]
    # What is no text names no model.
    return sorted(name for name in names if name.isprintable())


async def serves(store: Store, pool: str, model: str) -> bool:
    """Whether an engine of the pool answers, or has answered, to this name."""
    return await store.commands.hget(store.keys.models(), model) == pool.encode()


async def model_index(store: Store) -> dict[str, str]:
    """Name that a client may ask for -> pool."""
    return texts(await store.commands.hgetall(store.keys.models()))


async def pool_depth(store: Store, pool: str) -> PoolDepth:
    """Queue lengths, engines and counters of a pool, in one round trip."""
    keys = store.keys.pool(pool)
    pipe = store.commands.pipeline(transaction=False)
    for stream in keys.intake:
        pipe.xlen(stream)
    pipe.zcard(keys.waiting)
    pipe.zcard(keys.room)
    pipe.zcount(keys.room, 1, "+inf")
    pipe.hgetall(keys.counters)
    pipe.hmget(keys.backlog, [f"requests/{level:d}" for level in RequestPriority])
    pipe.hgetall(keys.settings)
    pipe.hgetall(keys.cards)
    *queued, waiting, engines, open_engines, counters, backlog, settings, cards = await pipe.execute()
    return PoolDepth(
        pool=pool,
        queued={p.label: n for p, n in zip(RequestPriority, queued, strict=True)},
        waiting=waiting,
        engines=engines,
        open_engines=open_engines,
        counters={name: int(count) for name, count in texts(counters).items() if is_count(count)},
        backlog={p.label: max(0, int(n or 0)) for p, n in zip(RequestPriority, backlog, strict=True)},
        settings=texts(settings),
        cards={name: text.partition("\n")[0] for name, text in texts(cards).items()},
    )


async def room(store: Store, pool: str) -> dict[str, RoomNote]:
    """READY engine -> its room."""
    entries = await store.commands.zrange(store.keys.pool(pool).room, 0, -1, withscores=True)
    return {read_name(name): read_note(score) for name, score in entries}


async def engine_rows(store: Store, pool: str, engines: Sequence[str]) -> list[EngineRow]:
    """The rows of these engines; one that has gone is left out."""
    keys = store.keys.pool(pool)
    pipe = store.commands.pipeline(transaction=False)
    for engine in engines:
        pipe.hgetall(keys.engine(engine))
    rows = await pipe.execute() if engines else []
    found: list[EngineRow] = []
    for number, (name, fields) in enumerate(zip(engines, rows, strict=True), 1):
        if number % ROWS_IN_A_TURN == 0:
            await asyncio.sleep(0)  # a gateway has streams to write meanwhile
        try:
            if fields:
                found.append(read_engine_row(name, texts(fields)))
        except ValueError as error:
            log.error("pool %s: the row of engine %r cannot be read: %s", pool, name, error)
    return found


async def engine_bounds(store: Store, pool: str, engines: Sequence[str]) -> dict[str, tuple[int, int | None]]:
    """Engine -> what of its row changes with its requests and while it recovers: ``kv_held`` and ``limit``. One whose
    row is none is left out."""
    keys = store.keys.pool(pool)
    pipe = store.commands.pipeline(transaction=False)
    for engine in engines:
        pipe.hmget(keys.engine(engine), "kv_held", "limit")
    rows: list[list[bytes | None] | Exception] = await pipe.execute(raise_on_error=False) if engines else []
    bounds: dict[str, tuple[int, int | None]] = {}
    for engine, row in zip(engines, rows, strict=True):
        if not isinstance(row, Exception):
            held, limit = (int(text) if text and text.isdigit() else None for text in row)
            bounds[engine] = held or 0, limit
    return bounds


async def server_ms(store: Store, pool: str) -> float:
    """The clock by which the pool's times were written, in ms since the epoch: its server's."""
    return await clock_of(store, store.keys.pool(pool).leases)


async def clock_of(store: Store, key: str) -> float:
    """The clock of the server that holds the key, in ms since the epoch."""
    given = store.now()
    if given != "0":
        return float(given)
    server = await store.node_of(key)
    seconds, micros = await server.time()
    return int(seconds) * 1000 + int(micros) / 1000


class Leases(NamedTuple):
    """The leases of a pool's engines, as they are at one moment."""

    now_ms: float
    """The server's clock."""
    lapsed: list[str]
    """Engines whose worker's lease has lapsed and that nobody has retired yet."""
    longest_ms: float
    """What is left of the lease that runs longest; 0: none runs."""


async def read_leases(store: Store, pool: str) -> Leases:
    """The pool's leases now."""
    now, key = await server_ms(store, pool), store.keys.pool(pool).leases
    pipe = store.commands.pipeline(transaction=False)
    pipe.zrangebyscore(key, "-inf", now)
    pipe.zrange(key, -1, -1, withscores=True)
    lapsed, last = await pipe.execute()
    longest = max((float(until) - now for _, until in last), default=0.0)
    return Leases(now, [read_name(name) for name in lapsed], max(0.0, longest))


async def read_output(
    store: Store, pool: str, request_id: str, *, after: tuple[int, int] = (0, 0), count: int | None = None
) -> list[Event]:
    """The events of a request behind a position of its output log."""
    start = f"({after[0]}-{after[1]}"
    entries = await store.commands.xrange(store.keys.pool(pool).output(request_id), min=start, count=count)
    return [read_log_entry(request_id, entry_id, fields) for entry_id, fields in entries]


def texts(fields: dict[Any, Any]) -> dict[str, str]:
    """A hash as it came, as text."""
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}


def number(text: str | bytes | None) -> float:
    """A field of a hash; 0 where it is not there, or somebody has written something else into it."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
