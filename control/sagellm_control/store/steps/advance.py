"""advance: requests whose prompt an engine has read go back to the waiting set, for an engine that answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..connect import Store
from ..script import Argument, Script
from .endings import CANCELLED, EXPIRED_RUNNING

_SCRIPT = Script("advance")


@dataclass(slots=True, frozen=True)
class Advance:
    """One attempt that has read the prompt."""

    request_id: str
    attempt: int
    transfer: bytes = b""
    """What the engine that answers has to know, as the worker of that engine reads it; kept as it is."""


async def advance(store: Store, pool: str, engine: str, worker: str, items: Sequence[Advance]) -> list[str]:
    """For each: ``waiting``, ``lost``, or the outcome with which it ended instead.

    Args:
        worker: the session that holds the engine.
    """
    keys = store.keys.pool(pool)
    names = [keys.engine(engine), keys.reservations(engine), keys.assigned(engine), keys.room, keys.waiting]
    names += [keys.freed, keys.counters, keys.backlog, keys.settings, keys.misranked]
    arguments: list[Argument] = [store.now(), engine, worker, CANCELLED, EXPIRED_RUNNING, len(items)]
    for item in items:
        names += (keys.record(item.request_id), keys.body(item.request_id), keys.output(item.request_id))
        arguments += (item.request_id, item.attempt, item.transfer)
    return [result.decode() for result in await _SCRIPT(store, names, arguments)]
