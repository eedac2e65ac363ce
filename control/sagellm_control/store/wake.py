"""Tells whoever starts engines that requests are held for a pool that has none."""

from __future__ import annotations

from .connect import Store

WAKES_KEPT = 1000
"""Entries of the stream; nobody needs an old one."""


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
