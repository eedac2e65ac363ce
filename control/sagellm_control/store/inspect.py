"""Read-only views of the shared state, for people, gateways and schedulers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

from ..wire.engine import EngineRow, read_engine_row
from ..wire.event import Ending, Event, read_log_entry
from ..wire.priority import RequestPriority
from ..wire.request import SCHEDULING_FIELDS, Arrival, BadEntry, read_arrival
from ..wire.states import EngineState, RequestState
from .connect import Store


class EngineView(BaseModel):
    """An engine as an operator sees it."""

    pool: str
    engine_id: str
    url: str
    kind: str
    version: str
    state: EngineState
    reason: str
    slots: int
    active: int
    """Requests that hold a place on it."""
    models: list[str]
    worker: str
    lease_s: float | None
    """Seconds until its worker's lease lapses; None: nobody holds it."""


class RequestView(BaseModel):
    """A request as an operator sees it."""

    pool: str
    request_id: str
    state: RequestState
    priority: str
    kind: str
    tenant: str
    age_s: float
    engine: str
    attempt: int
    position: int | None = None
    """Requests ahead of it in the waiting set."""
    outcome: str = ""
    fields: dict[str, str] = {}
    """The whole record."""


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


async def list_pools(store: Store) -> list[str]:
    """The names of all pools, sorted."""
    return sorted(name.decode() for name in await store.commands.smembers(store.keys.pools()))


async def serves(store: Store, pool: str, model: str) -> bool:
    """Whether an engine of the pool answers, or has answered, to this name."""
    return await store.commands.hget(store.keys.models(), model) == pool.encode()


async def model_index(store: Store) -> dict[str, str]:
    """Name that a client may ask for -> pool."""
    return _texts(await store.commands.hgetall(store.keys.models()))


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
    *queued, waiting, engines, open_engines, counters = await pipe.execute()
    return PoolDepth(
        pool=pool,
        queued={p.label: n for p, n in zip(RequestPriority, queued, strict=True)},
        waiting=waiting,
        engines=engines,
        open_engines=open_engines,
        counters={name: int(count) for name, count in _texts(counters).items()},
    )


async def room(store: Store, pool: str) -> dict[str, int]:
    """READY engine -> free places."""
    entries = await store.commands.zrange(store.keys.pool(pool).room, 0, -1, withscores=True)
    return {name.decode(): int(free) for name, free in entries}


async def engine_rows(store: Store, pool: str, engines: Sequence[str]) -> list[EngineRow]:
    """The rows of these engines; one that has gone is left out."""
    keys = store.keys.pool(pool)
    pipe = store.commands.pipeline(transaction=False)
    for engine in engines:
        pipe.hgetall(keys.engine(engine))
    rows = await pipe.execute() if engines else []
    return [read_engine_row(name, _texts(fields)) for name, fields in zip(engines, rows, strict=True) if fields]


async def waiting_head(store: Store, pool: str, count: int, *, start: int = 0) -> list[tuple[Arrival, int]]:
    """The requests that are first in line (or in line from a place on), each with its attempts so far."""
    keys = store.keys.pool(pool)
    ids = [member.decode() for member in await store.commands.zrange(keys.waiting, start, start + count - 1)]
    if not ids:
        return []
    pipe = store.commands.pipeline(transaction=False)
    for request_id in ids:
        pipe.hmget(keys.record(request_id), "attempt", *SCHEDULING_FIELDS)
    found: list[tuple[Arrival, int]] = []
    for request_id, (attempt, *values) in zip(ids, await pipe.execute(), strict=True):
        fields = {n: v.decode() for n, v in zip(SCHEDULING_FIELDS, values, strict=True) if v is not None}
        try:
            arrival = read_arrival(request_id, fields)
        except BadEntry:
            # Its record has gone; the assign step takes it out of the waiting set.
            arrival = Arrival(request_id, RequestPriority.NORMAL, 0.0)
        found.append((arrival, int(attempt or 0)))
    return found


async def server_ms(store: Store) -> float:
    """The server's clock, in ms since the epoch."""
    given = store.now()
    if given != "0":
        return float(given)
    seconds, micros = await store.commands.time()
    return int(seconds) * 1000 + int(micros) / 1000


async def lapsed_leases(store: Store, pool: str) -> list[str]:
    """Engines whose worker's lease has lapsed and that nobody has retired yet."""
    now = await server_ms(store)
    keys = store.keys.pool(pool)
    return [name.decode() for name in await store.commands.zrangebyscore(keys.leases, "-inf", now)]


async def read_output(
    store: Store, pool: str, request_id: str, *, after: tuple[int, int] = (0, 0), count: int | None = None
) -> list[Event]:
    """The events of a request behind a position of its output log."""
    start = f"({after[0]}-{after[1]}"
    entries = await store.commands.xrange(store.keys.pool(pool).output(request_id), min=start, count=count)
    return [read_log_entry(request_id, entry_id, fields) for entry_id, fields in entries]


async def list_engines(store: Store) -> list[EngineView]:
    """Every engine of every pool."""
    now = await server_ms(store)
    views: list[EngineView] = []
    for pool in await list_pools(store):
        keys = store.keys.pool(pool)
        ids = sorted(name.decode() for name in await store.commands.smembers(keys.engines))
        pipe = store.commands.pipeline(transaction=False)
        for engine in ids:
            pipe.scard(keys.reservations(engine))
            pipe.zscore(keys.leases, engine)
        facts = await pipe.execute() if ids else []
        held = dict(zip(ids, zip(facts[::2], facts[1::2], strict=True), strict=True))
        for row in await engine_rows(store, pool, ids):
            active, lease = held[row.engine_id]
            views.append(
                EngineView(
                    pool=pool,
                    engine_id=row.engine_id,
                    url=row.url,
                    kind=row.kind,
                    version=row.version,
                    state=row.state,
                    reason=row.reason,
                    slots=row.slots,
                    active=active,
                    models=list(row.models),
                    worker=row.worker,
                    lease_s=None if lease is None else round((float(lease) - now) / 1000, 1),
                )
            )
    return views


async def list_requests(
    store: Store, pool: str | None = None, state: RequestState | None = None, limit: int = 100
) -> list[RequestView]:
    """Requests by where they are: queued, waiting (in their order), assigned and running; finished ones on demand."""
    now = await server_ms(store)
    views: list[RequestView] = []
    for name in [pool] if pool else await list_pools(store):
        room_left = limit - len(views)
        if room_left <= 0:
            break
        ids = await _request_ids(store, name, state, room_left)
        views += await _request_views(store, name, ids, now, state)
    return views[:limit]


async def find_request(store: Store, request_id: str) -> RequestView | None:
    """The request of this id, in whichever pool it is."""
    now = await server_ms(store)
    for pool in await list_pools(store):
        for view in await _request_views(store, pool, [request_id], now, None):
            keys = store.keys.pool(pool)
            if view.state is RequestState.WAITING:
                view.position = await store.commands.zrank(keys.waiting, request_id)
            if view.state is RequestState.FINISHED:
                await _add_ending(store, pool, view)
            return view
    return None


async def _add_ending(store: Store, pool: str, view: RequestView) -> None:
    last = await store.commands.xrevrange(store.keys.pool(pool).output(view.request_id), count=1)
    if last and last[0][1].get(b"type") == b"end":
        ending = Ending.decode(last[0][1][b"payload"])
        view.fields |= {"status": str(ending.status)} | ({"message": ending.message} if ending.message else {})


async def _request_ids(store: Store, pool: str, state: RequestState | None, limit: int) -> list[str]:
    keys = store.keys.pool(pool)
    db = store.commands
    ids: list[str] = []
    if state in (None, RequestState.ASSIGNED, RequestState.RUNNING):
        for engine in sorted(await db.smembers(keys.engines)):
            ids += sorted(m.decode() for m in await db.smembers(keys.reservations(engine.decode())))
    if state in (None, RequestState.WAITING):
        ids += [m.decode() for m in await db.zrange(keys.waiting, 0, limit - 1)]
    if state in (None, RequestState.QUEUED):
        for stream in keys.intake:
            entries = await db.xrange(stream, count=limit)
            ids += [fields[b"id"].decode(errors="replace") for _, fields in entries if b"id" in fields]
    if state is RequestState.FINISHED:
        ids += await _finished_ids(store, pool, limit)
    return ids


async def _finished_ids(store: Store, pool: str, limit: int) -> list[str]:
    """Nothing lists them, as nothing needs to: the records are looked through, in no order."""
    keys = store.keys.pool(pool)
    pattern = re.sub(r"([\[\]?*\\])", r"\\\1", keys.record("")) + "*"
    start = len(keys.record(""))
    found: list[str] = []
    cursor = 0
    while len(found) < limit:
        cursor, names = await store.commands.scan(cursor, match=pattern, count=1000, _type="HASH")
        pipe = store.commands.pipeline(transaction=False)
        for name in names:
            pipe.hget(name, "state")
        states = await pipe.execute() if names else []
        found += [n.decode()[start:] for n, s in zip(names, states, strict=True) if s == RequestState.FINISHED.encode()]
        if cursor == 0:
            break
    return found[:limit]


async def _request_views(
    store: Store, pool: str, ids: Iterable[str], now: float, state: RequestState | None
) -> list[RequestView]:
    keys = store.keys.pool(pool)
    ids = list(ids)
    pipe = store.commands.pipeline(transaction=False)
    for request_id in ids:
        pipe.hgetall(keys.record(request_id))
    records: list[dict[bytes, bytes]] = await pipe.execute() if ids else []
    views: list[RequestView] = []
    for request_id, record in zip(ids, records, strict=True):
        fields = _texts(record)
        if "state" not in fields or (state and fields["state"] != state):
            continue
        level = fields.get("priority", "")
        views.append(
            RequestView(
                pool=pool,
                request_id=request_id,
                state=RequestState(fields["state"]),
                priority=RequestPriority(int(level)).label if level.isdecimal() else level,
                kind=fields.get("kind", ""),
                tenant=fields.get("tenant", ""),
                age_s=round((now - float(fields.get("arrived_ms") or now)) / 1000, 3),
                engine=fields.get("engine", ""),
                attempt=int(fields.get("attempt") or 0),
                outcome=fields.get("outcome", ""),
                fields=fields,
            )
        )
    return views


def _texts(fields: dict[Any, Any]) -> dict[str, str]:
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
