"""attach: one more inbox gets the output of a request."""

from __future__ import annotations

from ...wire.states import RequestState
from ..connect import Store
from ..script import Script

_SCRIPT = Script("attach")


async def attach(store: Store, pool: str, request_id: str, inbox: str) -> RequestState | None:
    """The request's state; None: there is none of this id. What came before is in the output log."""
    keys = store.keys.pool(pool)
    state = await _SCRIPT(store, [keys.record(request_id), keys.orphans], [inbox, request_id])
    return RequestState(state.decode()) if state else None
