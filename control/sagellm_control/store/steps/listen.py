"""listen, note_orphan: which gateways are alive, and whose requests are alone.

Steps, though each is one command: a server whose memory is full refuses that, and then living gateways would be taken
for lost.
"""

from __future__ import annotations

from ..connect import Store
from ..script import Script

_LISTEN = Script("listen")
_NOTE = Script("note_orphan")


async def announce_listener(store: Store, inbox: str, lease_ms: float) -> None:
    """The gateway of this inbox is alive, and will say so again within the lease."""
    await _LISTEN(store, [store.keys.gateways()], [store.now(), inbox, lease_ms])


async def note_orphan(store: Store, pool: str, request_id: str, until_ms: float) -> None:
    """Look at the request again at that time, unless it is noted already."""
    await _NOTE(store, [store.keys.pool(pool).orphans], [request_id, until_ms])
