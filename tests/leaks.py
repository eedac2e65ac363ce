"""Finds keys that nobody would ever delete: each key has a TTL or is declared permanent here."""

from __future__ import annotations

import re
from urllib.parse import unquote

from sagellm_control.store.connect import Store
from sagellm_control.wire.keys import Keys, PoolKeys
from sagellm_control.wire.states import RequestState

LIVE_STATES = frozenset(state.encode() for state in RequestState) - {RequestState.FINISHED.encode()}


def permanent_keys(keys: Keys) -> set[str]:
    """What a namespace keeps for good."""
    return {keys.pools(), keys.models()}


def permanent_pool_keys(keys: PoolKeys) -> set[str]:
    """What a pool keeps for good."""
    return {
        *keys.intake,  # the shells of streams
        keys.freed,
        keys.dead,  # bounded in length
        keys.waiting,
        keys.room,
        keys.engines,
        keys.leases,
        keys.settings,
        keys.counters,
    }


async def _stays_for_now(store: Store, keys: PoolKeys, kind: str, name: str, part: str) -> bool:
    """What is kept for as long as a request is under way or an engine is known."""
    match kind, part:
        case "request", "" | "body" | "output":
            return await store.commands.hget(keys.record(name), "state") in LIVE_STATES
        case "engine", "":
            # The row of an engine that a worker holds; any other row expires.
            return bool(await store.commands.hget(keys.engine(name), "worker"))
        case "engine", "reservations" | "assigned":
            return bool(await store.commands.exists(keys.engine(name)))
        case _:
            return False


async def namespace_keys(store: Store) -> list[bytes]:
    """Every key of the store's namespace."""
    return [key async for key in store.commands.scan_iter(match=f"{store.keys.namespace}:*", count=1000)]


async def leaked_keys(store: Store) -> list[str]:
    """The keys that neither have a TTL nor are permanent."""
    names = await namespace_keys(store)
    pipe = store.commands.pipeline(transaction=False)
    for name in names:
        pipe.pttl(name)
    ttls = await pipe.execute() if names else []
    lasting = [name.decode() for name, ttl in zip(names, ttls, strict=True) if ttl == -1]
    return [name for name in lasting if not await _is_permanent(store, name)]


async def delete_namespace(store: Store) -> None:
    """Delete every key of the store's namespace."""
    if names := await namespace_keys(store):
        await store.commands.unlink(*names)


async def _is_permanent(store: Store, name: str) -> bool:
    if name in permanent_keys(store.keys):
        return True
    of_pool = re.fullmatch(rf"{re.escape(store.keys.namespace)}:\{{([^}}]*)\}}:([^:]+):?([^:]*):?(.*)", name)
    if of_pool is None:
        return False
    quoted, kind, member, part = of_pool.groups()
    keys = store.keys.pool(unquote(quoted))
    return name in permanent_pool_keys(keys) or await _stays_for_now(store, keys, kind, member, part)
