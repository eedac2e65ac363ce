"""detach: an inbox no longer gets the output of a request."""

from __future__ import annotations

from enum import StrEnum

from ..connect import Store
from ..script import Script

_SCRIPT = Script("detach")


class Following(StrEnum):
    """Who still listens to a request."""

    UNKNOWN = "unknown"
    """It has ended, or there is none."""
    FOLLOWED = "followed"
    """Another inbox gets its output."""
    ALONE = "alone"
    """Nobody does."""


async def detach(store: Store, pool: str, request_id: str, inbox: str) -> Following:
    """Publish the request's output there no more. Left alone it ends after its grace, if it has one."""
    keys = store.keys.pool(pool)
    arguments = [store.now(), inbox, request_id]
    return Following((await _SCRIPT(store, [keys.record(request_id), keys.orphans], arguments)).decode())
