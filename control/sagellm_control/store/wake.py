"""Scale from zero: who starts engines is told that requests are held for a pool that has none."""

from __future__ import annotations

from .connect import Store
from .inspect import list_pools

WAKES_KEPT = 1000
"""Entries of the stream; nobody needs an old one."""

HELD_FOR_S = 24 * 3600
"""A pool for which requests may be held stays known for a day after the last gateway that holds them was heard of."""


async def hold_for_pools(store: Store) -> None:
    """Requests may be held for every pool that is known now, so none is forgotten with its last engine. To be
    repeated."""
    for pool in await list_pools(store):
        await store.commands.set(store.keys.pool(pool).holding, "1", ex=HELD_FOR_S)


async def wake(store: Store, pool: str, *, every_ms: int) -> bool:
    """Add the pool to the wake stream, unless somebody has within ``every_ms``; whether it was added.

    The entry has the fields ``pool`` and ``for_ms`` (for how long its requests are held). To scale from zero, read the
    stream (``XREAD``, or a consumer group of one's own) and start an engine.
    """
    if not await store.commands.set(store.keys.pool(pool).woken, "1", nx=True, px=every_ms):
        return False
    await store.commands.xadd(
        store.keys.wake(), {"pool": pool, "for_ms": str(every_ms)}, maxlen=WAKES_KEPT, approximate=True
    )
    return True
