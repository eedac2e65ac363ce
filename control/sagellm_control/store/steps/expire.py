"""expire: requests that have waited for as long as their class may wait end."""

from __future__ import annotations

from ...wire.keys import read_name
from ..connect import Store
from ..inspect import server_ms
from ..script import Argument, Script
from .endings import QUEUE_TTL

_SCRIPT = Script("expire")

BATCH = 200
"""Requests in one call; keeps each call well under a millisecond or two."""


async def expire_waiting(store: Store, pool: str) -> int:
    """End those whose time has come; how many."""
    keys = store.keys.pool(pool)
    ended = 0
    while True:
        now = await server_ms(store, pool)
        due = await store.commands.zrangebyscore(keys.expiries, "-inf", now, start=0, num=BATCH)
        if not due:
            return ended
        ids = [read_name(request_id) for request_id in due]
        names = [keys.waiting, keys.expiries, keys.counters, keys.backlog, keys.virtual_time, keys.tenants]
        for request_id in ids:
            names += (keys.record(request_id), keys.body(request_id), keys.output(request_id))
        arguments: list[Argument] = [store.now(), QUEUE_TTL, len(ids), *ids]
        ended += await _SCRIPT(store, names, arguments)
