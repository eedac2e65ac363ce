"""Who listens to requests: which gateways are alive, and which requests nobody listens to any more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from ..wire.keys import read_name
from ..wire.states import RequestState
from .connect import Store

AT_ONCE = 500
"""Records read in one round trip."""
ANNOUNCE_EVERY_S = 2.0
"""How often a living gateway says that it is alive; keepers count on it."""


@dataclass(slots=True, frozen=True)
class Listened:
    """Of a request that has not ended: who gets its output, and how long it may be without anybody."""

    request_id: str
    inboxes: tuple[str, ...]
    grace_ms: float


async def listener_leases(store: Store) -> dict[str, float]:
    """Inbox -> time (ms) until which its gateway is taken to be alive; one that went long ago is not in it."""
    entries = await store.commands.zrange(store.keys.gateways(), 0, -1, withscores=True)
    return {read_name(name): float(until) for name, until in entries}


async def forget_listeners(store: Store, before_ms: float) -> None:
    """Forget the gateways whose lease lapsed before this time."""
    await store.commands.zremrangebyscore(store.keys.gateways(), "-inf", f"({before_ms}")


async def limited_requests(store: Store, pool: str) -> AsyncIterator[Listened]:
    """The pool's requests that may not be without a listener for ever. A walk through all that has not ended."""
    # In the order of a request's way, so that one that moves on meanwhile is met again and not missed.
    keys, db = store.keys.pool(pool), store.commands
    for stream in keys.intake:
        start = "-"
        while entries := await db.xrange(stream, min=start, count=AT_ONCE):
            ids = [fields[b"id"].decode(errors="replace") for _, fields in entries if b"id" in fields]
            for request in await read_listened(store, pool, ids):
                yield request
            start = f"({entries[-1][0].decode()}"
    place = 0
    while members := await db.zrange(keys.waiting, place, place + AT_ONCE - 1):
        for request in await read_listened(store, pool, [read_name(member) for member in members]):
            yield request
        place += AT_ONCE
    for engine in await db.smembers(keys.engines):
        held = [read_name(member) for member in await db.hkeys(keys.reservations(read_name(engine)))]
        for at in range(0, len(held), AT_ONCE):
            for request in await read_listened(store, pool, held[at : at + AT_ONCE]):
                yield request


async def read_listened(store: Store, pool: str, request_ids: Sequence[str]) -> list[Listened]:
    """Those of these requests that have not ended and may not be without a listener for ever."""
    keys = store.keys.pool(pool)
    pipe = store.commands.pipeline(transaction=False)
    for request_id in request_ids:
        pipe.hmget(keys.record(request_id), "state", "inbox", "orphan_grace_ms")
    records = await pipe.execute() if request_ids else []
    return [
        Listened(request_id, tuple(read_name(inboxes or b"").split()), float(grace))
        for request_id, (state, inboxes, grace) in zip(request_ids, records, strict=True)
        if state and grace and grace.isdigit() and state != RequestState.FINISHED.encode()
    ]


async def due_orphans(store: Store, pool: str, now_ms: float) -> list[str]:
    """The requests that are to be looked at now."""
    found = await store.commands.zrangebyscore(store.keys.pool(pool).orphans, "-inf", now_ms, start=0, num=AT_ONCE)
    return [read_name(member) for member in found]


async def settle_orphan(store: Store, pool: str, request_id: str) -> bool:
    """Whether the note was still there; it is gone when another keeper was first, or when somebody attached."""
    return bool(await store.commands.zrem(store.keys.pool(pool).orphans, request_id))
