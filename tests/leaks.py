"""Finds keys that nobody would ever delete: each key has a TTL or is declared permanent here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from sagellm_control.store.connect import Store
from sagellm_control.wire.keys import Keys, PoolKeys
from sagellm_control.wire.states import RequestState

LIVE_STATES = frozenset(state.encode() for state in RequestState) - {RequestState.FINISHED.encode()}


def permanent_keys(keys: Keys) -> set[str]:
    """What a namespace keeps for good."""
    return {keys.pools(), keys.models(), keys.wake(), keys.gateways()}


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
        keys.registrations,  # until the engines are unregistered
        keys.settings,
        keys.counters,
        keys.orphans,  # an entry goes when its time has come
        keys.reranking,
        keys.misranked,  # each goes with the next sweep
        keys.backlog,  # what waits, and no more
        keys.expiries,  # each goes when its time has come
        keys.virtual_time,
        keys.tenants,  # those ahead of the virtual time
        keys.placements,  # bounded in length
        keys.lengths,  # bounded in number
        keys.cards,  # of the models that are known
    }


def kept_while(pipe: Any, keys: PoolKeys, kind: str, name: str, part: str) -> bool:
    """Ask for what a key of a request or an engine is kept for; False: there is no such key."""
    match kind, part:
        case "request", "" | "body" | "output":
            pipe.hget(keys.record(name), "state")  # until the request has ended
        case "engine", "":
            pipe.hget(keys.engine(name), "worker")  # while a worker holds it
        case "engine", "reservations" | "assigned":
            pipe.exists(keys.engine(name))  # as long as its row
        case _:
            return False
    return True


def still_kept(kind: str, answer: Any) -> bool:
    """Whether the answer to ``kept_while`` says that the key may stay."""
    return answer in LIVE_STATES if kind == "request" else bool(answer)


async def namespace_keys(store: Store) -> list[str]:
    """Every key of the store's namespace."""
    pattern = f"{store.keys.namespace}:*"
    return [
        key.decode() for server in await store.servers() async for key in server.scan_iter(match=pattern, count=1000)
    ]


async def leaked_keys(store: Store) -> list[str]:
    """The keys that neither have a TTL nor are permanent."""
    names = await namespace_keys(store)
    pipe = store.commands.pipeline(transaction=False)
    for name in names:
        pipe.pttl(name)
    ttls = await pipe.execute() if names else []
    return await _not_permanent(store, [name for name, ttl in zip(names, ttls, strict=True) if ttl == -1])


async def delete_namespace(store: Store) -> None:
    """Delete every key of the store's namespace."""
    pipe = store.commands.pipeline(transaction=False)
    for name in await namespace_keys(store):
        pipe.unlink(name)
    await pipe.execute()


async def _not_permanent(store: Store, names: Sequence[str]) -> list[str]:
    of_pool = re.compile(rf"{re.escape(store.keys.namespace)}:\{{([^}}]*)\}}:([^:]+):?([^:]*):?(.*)")
    leaked: list[str] = []
    asked: list[tuple[str, str]] = []
    pipe = store.commands.pipeline(transaction=False)
    for name in names:
        if name in permanent_keys(store.keys):
            continue
        found = of_pool.fullmatch(name)
        if found is None:
            leaked.append(name)
            continue
        quoted, kind, member, part = found.groups()
        keys = store.keys.pool(unquote(quoted))
        if name in permanent_pool_keys(keys):
            continue
        if kept_while(pipe, keys, kind, member, part):
            asked.append((name, kind))
        else:
            leaked.append(name)
    answers = await pipe.execute() if asked else []
    leaked += [name for (name, kind), answer in zip(asked, answers, strict=True) if not still_kept(kind, answer)]
    return leaked
