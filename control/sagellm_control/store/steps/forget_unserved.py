"""forget_unserved: a request that ended before any engine had it makes room for another try under its id."""

from __future__ import annotations

from ...wire.request import NewRequest
from ..connect import Store
from ..script import Script

_SCRIPT = Script("forget_unserved")


async def forget_unserved(store: Store, request: NewRequest) -> bool:
    """Forget it, if it was turned away or its time passed while it waited for its first engine; whether there is none
    now. What it was told then is no answer, and may have been to come again."""
    keys = store.keys.pool(request.pool)
    names = [keys.record(request.id), keys.output(request.id)]
    return bool(await _SCRIPT(store, names, [request.fingerprint]))
