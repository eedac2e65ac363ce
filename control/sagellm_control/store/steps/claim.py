"""claim: a worker says that it runs attempts."""

from __future__ import annotations

from collections.abc import Sequence

from ..connect import Store
from ..script import Argument, Script

_SCRIPT = Script("claim")


async def claim(
    store: Store, pool: str, engine: str, worker: str, attempts: Sequence[tuple[str, int, float]]
) -> list[str]:
    """For each attempt ``running``, ``lost``, or the outcome with which it is to be stopped.

    Args:
        attempts: request id, number of the attempt, and for how long it has run (ms).
    """
    keys = store.keys.pool(pool)
    names = [keys.engine(engine), *(keys.record(request_id) for request_id, _, _ in attempts)]
    arguments: list[Argument] = [store.now(), engine, worker, len(attempts)]
    for request_id, attempt, ran_ms in attempts:
        arguments += (request_id, attempt, f"{ran_ms:.1f}")
    return [result.decode() for result in await _SCRIPT(store, names, arguments)]
