"""condemn: a waiting request whose record cannot be read is given up."""

from __future__ import annotations

from ..connect import Store
from ..script import Script
from .endings import UNREADABLE

_SCRIPT = Script("condemn")


async def condemn(store: Store, pool: str, request_id: str, why: str) -> bool:
    """Take it out of the line, keep a copy in the dead stream, and end it; whether there was anything to end."""
    keys = store.keys.pool(pool)
    names = [
        keys.record(request_id),
        keys.body(request_id),
        keys.output(request_id),
        keys.waiting,
        keys.counters,
        keys.dead,
        keys.backlog,
        keys.virtual_time,
        keys.tenants,
        keys.settings,
    ]
    return await _SCRIPT(store, names, [store.now(), request_id, why, UNREADABLE]) == b"dead"
