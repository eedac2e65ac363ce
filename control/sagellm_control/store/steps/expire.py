"""expire: requests that have waited for as long as they may wait end."""

from __future__ import annotations

from dataclasses import dataclass

from ...wire.keys import read_name
from ..connect import Store
from ..inspect import server_ms
from ..script import Argument, Script
from .endings import QUEUE_TTL, TOO_LATE

_SCRIPT = Script("expire")

BATCH = 200
"""Requests in one call; keeps each call well under a millisecond or two."""


@dataclass(slots=True)
class Expired:
    """How many ended, and what is next."""

    of_class: int = 0
    """They had waited for as long as their class may."""
    late: int = 0
    """They could meet their objective no more, and were not to be served late."""
    next_ms: float = float("inf")
    """When the next of those that wait is due."""


async def expire_waiting(store: Store, pool: str) -> Expired:
    """End those whose time has come."""
    keys = store.keys.pool(pool)
    expired = Expired()
    while first := await store.commands.zrange(keys.expiries, 0, BATCH - 1, withscores=True):
        now = await server_ms(store, pool)
        ids = [read_name(request_id) for request_id, due in first if due <= now]
        if not ids:
            expired.next_ms = first[0][1]
            break
        names = [keys.waiting, keys.expiries, keys.counters, keys.backlog, keys.virtual_time, keys.tenants]
        names.append(keys.settings)
        for request_id in ids:
            names += (keys.record(request_id), keys.body(request_id), keys.output(request_id))
        arguments: list[Argument] = [store.now(), QUEUE_TTL, TOO_LATE, len(ids), *ids]
        of_class, late = await _SCRIPT(store, names, arguments)
        expired.of_class += of_class
        expired.late += late
    return expired
