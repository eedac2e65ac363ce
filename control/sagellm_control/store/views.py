"""The shared state as people want to see it: engines and requests, each in one table."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, NamedTuple

from pydantic import BaseModel
from redis.exceptions import RedisError

from ..wire.engine_error import error_said
from ..wire.event import Ending
from ..wire.keys import escaped, read_name
from ..wire.priority import RequestPriority
from ..wire.states import EngineState, Outcome, RequestState
from .connect import Store
from .inspect import engine_rows, list_pools, number, server_ms, texts
from .script import is_misplaced
from .steps.engines import drained_note

log = logging.getLogger(__name__)


class EngineView(BaseModel):
    """An engine as an operator sees it."""

    pool: str
    engine_id: str
    url: str
    kind: str
    version: str
    role: str = ""
    """Which stages of a request it takes, see ``EngineRole``."""
    state: EngineState
    reason: str
    drained: bool = False
    """Somebody asked for it to be drained: until that is undone it gets no requests, whatever its worker says of it."""
    slots: int
    active: int
    """Requests that hold a place on it."""
    models: list[str]
    kinds: list[str] = []
    """Kinds of request that it takes, see ``RequestKind``; empty: every kind."""
    kv_tokens: int
    """That its KV cache holds; 0: not known."""
    kv_held: int
    pace_tps: float
    """Uncached prompt tokens a second that may start while answers run; 0: no bound."""
    prefill_tps: float
    step_ms: float
    """Of a decode step with one answer."""
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


async def list_engines(store: Store, only_pool: str | None = None) -> list[EngineView]:
    """Every engine of every pool, or of one."""
    views: list[EngineView] = []
    for pool in [only_pool] if only_pool else await list_pools(store):
        now = await server_ms(store, pool)
        keys = store.keys.pool(pool)
        ids = sorted(read_name(name) for name in await store.commands.smembers(keys.engines))
        pipe = store.commands.pipeline(transaction=False)
        for engine in ids:
            pipe.hlen(keys.reservations(engine))
            pipe.zscore(keys.leases, engine)
            pipe.hexists(keys.engine(engine), "drain")
        facts = await pipe.execute() if ids else []
        held = dict(zip(ids, zip(facts[::3], facts[1::3], facts[2::3], strict=True), strict=True))
        for row in await engine_rows(store, pool, ids):
            active, lease, drained = held[row.engine_id]
            reasons = [drained_note(row.engine_id)] if drained else []
            views.append(
                EngineView(
                    pool=pool,
                    engine_id=row.engine_id,
                    url=row.url,
                    kind=row.kind,
                    version=row.version,
                    role=row.role,
                    state=row.state,
                    reason="; ".join([*reasons, *filter(None, [row.reason])]),
                    drained=bool(drained),
                    slots=row.slots,
                    active=active,
                    models=list(row.models),
                    kinds=list(row.kinds),
                    kv_tokens=row.kv_tokens,
                    kv_held=row.kv_held,
                    pace_tps=row.pace_tps,
                    prefill_tps=row.speed.prefill_tps,
                    step_ms=row.speed.step_ms + row.speed.step_ms_per_answer,
                    worker=row.worker,
                    lease_s=None if lease is None else round((float(lease) - now) / 1000, 1),
                )
            )
    return views


async def list_requests(
    store: Store, pool: str | None = None, state: RequestState | None = None, limit: int = 100
) -> list[RequestView]:
    """Requests by where they are: assigned and running, waiting (in their order), queued; finished ones on demand, the
    newest first."""
    views: list[RequestView] = []
    for name in [pool] if pool else await list_pools(store):
        room_left = limit if state is RequestState.FINISHED else limit - len(views)
        if room_left <= 0:
            break
        ids = await _request_ids(store, name, state, room_left)
        now = await server_ms(store, name)
        views += await _request_views(store, name, ids, now, state)
    if state is RequestState.FINISHED:
        views.sort(key=lambda view: number(view.fields.get("finished_ms")), reverse=True)
    return views[:limit]


class RequestTotals(NamedTuple):
    """How many requests have not ended."""

    on_engines: int
    """By the places that they hold: assigned and running."""
    waiting: int
    queued: int


async def count_requests(store: Store, pool: str | None = None) -> RequestTotals:
    """Those of every pool, or of one."""
    on_engines = waiting = queued = 0
    for name in [pool] if pool else await list_pools(store):
        keys = store.keys.pool(name)
        pipe = store.commands.pipeline(transaction=False)
        pipe.zcard(keys.waiting)
        for stream in keys.intake:
            pipe.xlen(stream)
        engines = [read_name(engine) for engine in await store.commands.smembers(keys.engines)]
        for engine in engines:
            pipe.hlen(keys.reservations(engine))
        waits, *counts = await pipe.execute()
        waiting += waits
        queued += sum(counts[: len(keys.intake)])
        on_engines += sum(counts[len(keys.intake) :])
    return RequestTotals(on_engines, waiting, queued)


async def find_request(store: Store, request_id: str) -> RequestView | None:
    """The request of this id, in whichever pool it is."""
    return next(iter(await find_requests(store, request_id)), None)


async def find_requests(store: Store, request_id: str) -> list[RequestView]:
    """All of this id: pools in which requests came at the same moment do not know of each other's."""
    found: list[RequestView] = []
    for pool in await list_pools(store):
        now = await server_ms(store, pool)
        for view in await _request_views(store, pool, [request_id], now, None):
            keys = store.keys.pool(pool)
            if view.state is RequestState.WAITING:
                view.position = await store.commands.zrank(keys.waiting, request_id)
            if view.state is RequestState.FINISHED:
                await _add_ending(store, pool, view)
            found.append(view)
    return found


async def _add_ending(store: Store, pool: str, view: RequestView) -> None:
    last = await store.commands.xrevrange(store.keys.pool(pool).output(view.request_id), count=1)
    if last and last[0][1].get(b"type") == b"end":
        ending = Ending.decode(last[0][1][b"payload"])
        message = ending.message
        if ending.outcome is Outcome.REFUSED:
            message = message or error_said(ending.body).message
        view.fields |= {"status": str(ending.status)} | ({"message": message} if message else {})


async def _request_ids(store: Store, pool: str, state: RequestState | None, limit: int) -> list[str]:
    keys = store.keys.pool(pool)
    db = store.commands
    ids: list[str] = []
    if state in (None, RequestState.ASSIGNED, RequestState.RUNNING):
        for engine in sorted(await db.smembers(keys.engines)):
            ids += sorted(read_name(m) for m in await db.hkeys(keys.reservations(read_name(engine))))
    if state in (None, RequestState.WAITING):
        ids += [read_name(m) for m in await db.zrange(keys.waiting, 0, limit - 1)]
    if state in (None, RequestState.QUEUED):
        for stream in keys.intake:
            entries = await db.xrange(stream, count=limit)
            ids += [fields[b"id"].decode(errors="replace") for _, fields in entries if b"id" in fields]
    if state is RequestState.FINISHED:
        ids += await _finished_ids(store, pool, limit)
    return ids


async def _finished_ids(store: Store, pool: str, limit: int) -> list[str]:
    """Nothing lists them, as nothing needs to: all records are looked through for the newest."""
    keys = store.keys.pool(pool)
    pattern = escaped(keys.record("")) + "*"
    start = len(keys.record(""))
    server = await store.node_of(keys.record(""))
    found: dict[str, float] = {}
    cursor = 0
    while True:
        cursor, names = await server.scan(cursor, match=pattern, count=1000, _type="HASH")
        pipe = store.commands.pipeline(transaction=False)
        for name in names:
            pipe.hmget(name, "state", "finished_ms")
        for name, (now_is, at) in zip(names, await pipe.execute() if names else [], strict=True):
            if now_is == RequestState.FINISHED.encode():
                found[read_name(name)[start:]] = number(at)
        if cursor == 0 or len(found) > 2 * limit:
            found = dict(heapq.nlargest(limit, found.items(), key=itemgetter(1)))
        if cursor == 0:
            return list(found)


async def _request_views(
    store: Store, pool: str, ids: Iterable[str], now: float, state: RequestState | None
) -> list[RequestView]:
    keys = store.keys.pool(pool)
    ids = list(ids)
    pipe = store.commands.pipeline(transaction=False)
    for request_id in ids:
        pipe.hgetall(keys.record(request_id))
    records: list[Any] = await pipe.execute(raise_on_error=False) if ids else []
    views: list[RequestView] = []
    for request_id, record in zip(ids, records, strict=True):
        if isinstance(record, RedisError):
            if not is_misplaced(record):
                raise record
            record = {}  # what has another type is no record
        fields = texts(record)
        if "state" not in fields or (state and fields["state"] != state):
            continue
        try:
            views.append(_request_view(pool, request_id, fields, now))
        except ValueError as error:
            log.error("pool %s: the record of request %r cannot be read: %s", pool, request_id, error)
    return views


def _request_view(pool: str, request_id: str, fields: dict[str, str], now: float) -> RequestView:
    level = fields.get("priority", "")
    return RequestView(
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
