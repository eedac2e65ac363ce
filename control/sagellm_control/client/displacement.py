"""When the queue is full: a more urgent arrival takes the place of the least urgent ones that wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..store.connect import Store
from ..store.steps.accept import AcceptResult, Full
from ..store.steps.displace import displace
from ..wire.request import NewRequest
from ..wire.states import Reason

MOST_TRIES = 3
"""Places made for one arrival: each may be taken by another arrival before this one comes back."""
OF_THE_POOL = (Reason.QUEUE_FULL, Reason.QUEUE_BYTES_FULL)
"""Bounds that hold for all classes together. Nobody makes place for a class or a tenant that has its share."""


async def displace_and_accept(
    store: Store,
    request: NewRequest,
    full: Full,
    accept: Callable[[], Awaitable[AcceptResult]],
    *,
    retry_after_s: float,
) -> AcceptResult:
    """Have a request accepted for which the queue was full, in the place of less urgent ones if there are such."""
    result: AcceptResult = full
    for _ in range(MOST_TRIES):
        if not isinstance(result, Full) or result.reason not in OF_THE_POOL or not result.last:
            break
        gone = await displace(
            store,
            request.pool,
            request.priority,
            result.last,
            wanted_bytes=result.missing_bytes,
            retry_after_s=retry_after_s,
        )
        if not gone:
            break
        result = await accept()
    return result
