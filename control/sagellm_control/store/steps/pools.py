"""announce, describe, withdraw, forget_pool: how a pool and its names come to be known, and how they are forgotten."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ...wire.engine import EngineRow
from ...wire.keys import read_name
from ..connect import Store
from ..inspect import engine_rows
from ..script import Argument, Script

_ANNOUNCE = Script("announce")
_DESCRIBE = Script("describe")
_FORGET = Script("forget_pool")

DEAD_KEPT_MS = 7 * 24 * 3600 * 1000
"""A pool is known for at least a week after it has given up a request, so that this can be looked at."""


async def announce(store: Store, row: EngineRow) -> None:
    """Make the engine's pool and the names that it answers to known. To be repeated: it may be forgotten."""
    await _ANNOUNCE(store, [store.keys.pools()], [row.pool])
    await _ANNOUNCE(store, [store.keys.models()], [row.pool, *dict.fromkeys((row.pool, *row.models))])


async def describe(store: Store, row: EngineRow, dropped: Collection[str] = ()) -> None:
    """Have what the engine says of its models shown, if no other engine that is held says something of them. To be
    repeated: it may be forgotten, and that other engine may go.

    Args:
        dropped: models that it has no more, so that others may say what they are.
    """
    keys, cards = store.keys.pool(row.pool), dict(row.cards)
    arguments: list[Argument] = [row.engine_id]
    for name in dict.fromkeys((row.pool, *row.models, *dropped)):
        arguments += (name, cards.get(name, ""))
    await _DESCRIBE(store, [keys.cards, keys.leases], arguments)


async def withdraw(store: Store, pool: str, names: Collection[str]) -> None:
    """Forget names, of adapters, that no engine of the pool answers to any more. One that has just begun to is heard of
    again when its worker announces it the next time."""
    await _withdraw(store, pool, {*names} & {*await _names_of(store, pool)}, lambda row: bool(row.worker))


async def withdraw_removed(store: Store, pool: str) -> None:
    """The same of all names, where an engine was removed: those that no engine has answered to that is left, whether or
    not it does so now. One that is registered keeps the pool's own; all are kept where engines may be started for
    requests that are held."""
    keys = store.keys.pool(pool)
    if await store.commands.exists(keys.holding):
        return
    names = {*await _names_of(store, pool)}
    rows = await _withdraw(store, pool, names - {pool}, lambda _: True)
    if pool in names and not rows and not await store.commands.exists(keys.registrations):
        await _forget_names(store, pool, [pool])


async def _withdraw(store: Store, pool: str, names: Collection[str], counts: Callable[[EngineRow], bool]) -> int:
    # The rows are read after the names: a worker writes its row before it announces what is in it. (How many they are.)
    engines = [read_name(name) for name in await store.commands.smembers(store.keys.pool(pool).engines)]
    rows = await engine_rows(store, pool, engines)
    served = {name for row in rows if counts(row) for name in row.models}
    await _forget_names(store, pool, [name for name in names if name not in served])
    return len(rows)


async def _names_of(store: Store, pool: str) -> list[str]:
    models = await store.commands.hgetall(store.keys.models())
    return [read_name(name) for name, served_by in models.items() if served_by == pool.encode()]


async def _forget_names(store: Store, pool: str, names: Sequence[str]) -> None:
    if names:
        await store.commands.hdel(store.keys.models(), *names)
        await store.commands.hdel(store.keys.pool(pool).cards, *names)


async def forget_pool(store: Store, pool: str) -> bool:
    """Delete what is kept of a pool that has neither engines (running or registered) nor requests, gets none while it
    has no engine, and has given up none of late; False: it is kept."""
    keys = store.keys.pool(pool)
    if await store.commands.exists(keys.registrations, keys.holding):
        return False
    names = [
        keys.waiting,
        keys.engines,
        keys.dead,
        *keys.intake,
        keys.freed,
        keys.room,
        keys.leases,
        keys.counters,
        keys.orphans,
        keys.retries,
        keys.reranking,
        keys.misranked,
        keys.backlog,
        keys.expiries,
        keys.virtual_time,
        keys.tenants,
        keys.placements,
        keys.lengths,
        keys.cards,
    ]
    if await _FORGET(store, names, [DEAD_KEPT_MS]) != b"forgotten":
        return False
    await _forget_names(store, pool, await _names_of(store, pool))
    await store.commands.srem(store.keys.pools(), pool)
    return True
