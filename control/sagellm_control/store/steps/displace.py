"""displace: the least urgent requests that wait make place for a more urgent one."""

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
    wanted_bytes: int = 0,
    retry_after_s: float,
) -> list[str]:
    """End as few of the candidates that are less urgent than ``priority`` as make place for one; the ids of those that
    went, none where all of them would not make enough.

    Args:
        candidates: requests that wait, the last in line first.
        wanted_bytes: how long their bodies have to be together.
        retry_after_s: when those that go may come back.
    """
    keys = store.keys.pool(pool)
    names = [keys.waiting, keys.counters, keys.backlog, keys.virtual_time, keys.tenants, keys.settings]
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
    gone = await _SCRIPT(store, names, [*arguments, wanted_bytes, len(candidates), *candidates])
    return [request_id.decode() for request_id in gone]
