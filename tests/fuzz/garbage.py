"""Random bytes for everything that the shared state is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from sagellm_control.store.connect import Store
from sagellm_control.wire.keys import PoolKeys
from sagellm_control.wire.request import SCHEDULING_FIELDS

from ..flow.asking import MODEL

VICTIMS = ("victim-0", "victim-1", "victim-2")
"""Requests that wait, and whose records are not safe."""
GHOST = "ghost"
"""An engine that is none."""

Fields = dict[bytes, bytes]


@dataclass(frozen=True)
class Garbage:
    """One write that nobody who knows the rules would make."""

    target: str
    fields: tuple[tuple[bytes, bytes], ...]
    member: bytes
    score: float
    number: int

    async def write(self, store: Store) -> None:
        await TARGETS[self.target](store, store.keys.pool(MODEL), self)


Write = Callable[[Store, PoolKeys, Garbage], Awaitable[Any]]


def _stream(key: Callable[[Store, PoolKeys, Garbage], str]) -> Write:
    async def write(store: Store, keys: PoolKeys, g: Garbage) -> None:
        await store.commands.xadd(key(store, keys, g), dict(g.fields) or {b"": b""})

    return write


def _hash(key: Callable[[Store, PoolKeys, Garbage], str]) -> Write:
    async def write(store: Store, keys: PoolKeys, g: Garbage) -> None:
        await store.commands.hset(key(store, keys, g), mapping=dict(g.fields) or {b"": b""})

    return write


def _sorted_set(key: Callable[[Store, PoolKeys, Garbage], str]) -> Write:
    async def write(store: Store, keys: PoolKeys, g: Garbage) -> None:
        await store.commands.zadd(key(store, keys, g), {g.member: g.score})

    return write


def _set(key: Callable[[Store, PoolKeys, Garbage], str]) -> Write:
    async def write(store: Store, keys: PoolKeys, g: Garbage) -> None:
        await store.commands.sadd(key(store, keys, g), g.member)

    return write


async def _publish(store: Store, keys: PoolKeys, g: Garbage) -> None:
    for channel in await store.commands.pubsub_channels(store.keys.inbox("*")):
        frame = b"%s %s chunk %d\n%s\n" % (VICTIMS[0].encode(), g.member, len(g.member), g.member)
        await store.commands.publish(channel, g.member if g.number % 2 else frame)


async def _engine(store: Store, keys: PoolKeys) -> str:
    """The one that is real."""
    names = [name.decode(errors="replace") for name in await store.commands.smembers(keys.engines)]
    return next(name for name in names if name.rpartition(":")[2].isdecimal())


async def _work(store: Store, keys: PoolKeys, g: Garbage) -> None:
    await store.commands.xadd(keys.assigned(await _engine(store, keys)), dict(g.fields) or {b"": b""})


async def _place(store: Store, keys: PoolKeys, g: Garbage) -> None:
    await store.commands.hset(keys.reservations(await _engine(store, keys)), g.member, g.number)


async def _row(store: Store, keys: PoolKeys, g: Garbage) -> None:
    """An engine that does not exist, and has room."""
    await store.commands.sadd(keys.engines, GHOST)
    await store.commands.zadd(keys.room, {GHOST: g.number + 1})
    await store.commands.hset(keys.engine(GHOST), mapping=dict(g.fields) or {b"": b""})


def _victim(g: Garbage) -> str:
    return VICTIMS[g.number % len(VICTIMS)]


TARGETS: dict[str, Write] = {
    "intake": _stream(lambda _, keys, g: keys.intake[g.number % 5]),
    "freed": _stream(lambda _, keys, g: keys.freed),
    "assigned": _work,
    "output": _stream(lambda _, keys, g: keys.output(_victim(g))),
    "dead": _stream(lambda _, keys, g: keys.dead),
    "wake": _stream(lambda store, _, g: store.keys.wake()),
    "waiting": _sorted_set(lambda _, keys, g: keys.waiting),
    "room": _sorted_set(lambda _, keys, g: keys.room),
    "leases": _sorted_set(lambda _, keys, g: keys.leases),
    "orphans": _sorted_set(lambda _, keys, g: keys.orphans),
    "gateways": _sorted_set(lambda store, _, g: store.keys.gateways()),
    "engines": _set(lambda _, keys, g: keys.engines),
    "reservations": _place,
    "pools": _set(lambda store, _, g: store.keys.pools()),
    "models": _hash(lambda store, _, g: store.keys.models()),
    "settings": _hash(lambda _, keys, g: keys.settings),
    "registrations": _hash(lambda _, keys, g: keys.registrations),
    "counters": _hash(lambda _, keys, g: keys.counters),
    "backlog": _hash(lambda _, keys, g: keys.backlog),
    "lengths": _hash(lambda _, keys, g: keys.lengths),
    "expiries": _sorted_set(lambda _, keys, g: keys.expiries),
    "tenants": _sorted_set(lambda _, keys, g: keys.tenants),
    "misranked": _set(lambda _, keys, g: keys.misranked),
    "placements": _stream(lambda _, keys, g: keys.placements),
    "retries": _hash(lambda _, keys, g: keys.retries),
    "record": _hash(lambda _, keys, g: keys.record(_victim(g))),
    "row": _row,
    "inbox": _publish,
}

KNOWN_FIELDS = (
    *SCHEDULING_FIELDS,
    *(
        "id",
        "attempt",
        "state",
        "entry",
        "rank",
        "engine",
        "inbox",
        "keep_ms",
        "after",
        "failures",
        "lapses",
        "continue",
    ),
    *("cancel", "assigned_ms", "orphan_grace_ms", "free", "slots", "prefetch", "limit", "worker", "models", "drain"),
    *(
        "policy",
        "placement",
        "aging_s",
        "tenant_weights",
        "type",
        "payload",
        "since_ms",
        "accepted",
        "count",
        "completed",
    ),
    *("kv_tokens", "speed", "pace_tps", "role", "url", "kind", "pool", MODEL),
)
STATES = (
    "queued",
    "waiting",
    "assigned",
    "running",
    "finished",
    "READY",
    "DRAINING",
    "fair",
    "-1",
    "nan",
    "1e999",
    "{}",
)

names = st.sampled_from([name.encode() for name in KNOWN_FIELDS]) | st.binary(max_size=8)
members = st.binary(min_size=1, max_size=12) | st.sampled_from([*(v.encode() for v in VICTIMS), b"a:b", b"{x}"])
contents = st.binary(max_size=12) | members | st.sampled_from([state.encode() for state in STATES])
garbage = st.builds(
    Garbage,
    target=st.sampled_from(sorted(TARGETS)),
    fields=st.lists(st.tuples(names, contents), min_size=1, max_size=3).map(tuple),
    member=members,
    score=st.floats(allow_nan=False) | st.just(0.0),
    number=st.integers(0, 9),
)
