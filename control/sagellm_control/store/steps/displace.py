"""displace: the least urgent request that waits makes place for a more urgent one."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from ...wire.event import Ending
from ...wire.priority import RequestPriority
from ...wire.states import Outcome, Reason
from ..connect import Store
from ..script import Argument, Script

_SCRIPT = Script("displace")


async def displace(
    store: Store,
    pool: str,
    priority: RequestPriority,
    candidates: Sequence[str],
    *,
    least_bytes: int = 0,
    retry_after_s: float,
) -> str | None:
    """End one of the candidates that is less urgent than ``priority``; its id, None: there is none.

    Args:
        candidates: requests that wait, the last in line first.
        least_bytes: how long its body has to be, where it is bytes that are wanted.
        retry_after_s: when the one that goes may come back.
    """
    keys = store.keys.pool(pool)
    names = [keys.waiting, keys.counters, keys.backlog, keys.virtual_time, keys.tenants]
    for request_id in candidates:
        names += (keys.record(request_id), keys.body(request_id), keys.output(request_id))
    ending = Ending(
        Outcome.REJECTED,
        status=429,
        code=Reason.DISPLACED,
        message="The queue is full, and a more urgent request took the place of this one.",
        retry_after_s=retry_after_s,
    )
    # One arrival may need a place more than once, so it is the call that has a name.
    arguments: list[Argument] = [store.now(), int(priority), ending.encode(), secrets.token_hex(4)]
    gone = await _SCRIPT(store, names, [*arguments, least_bytes, len(candidates), *candidates])
    return gone.decode() if gone else None
