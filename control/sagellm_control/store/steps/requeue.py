"""requeue: attempts that did not work out go back to the waiting set, or end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ...wire.event import Ending
from ..connect import Store
from ..script import Argument, Script
from .endings import CANCELLED, CUT_OFF, DEAD, EXPIRED_RUNNING

_SCRIPT = Script("requeue")

MAX_LAPSES = 3
"""A request whose workers died this often is taken for the cause, unless the pool's settings have another number."""


@dataclass(slots=True, frozen=True)
class RetryBudget:
    """How many retries after failures a pool may spend in ten seconds.

    The defaults are those of Finagle and Linkerd: a fifth of the requests, and ten a second.
    """

    share: float = 0.2
    """For each request that was accepted in these seconds."""
    floor: int = 100
    """On top of that, and no fewer than the failing engine has slots; 0: none."""


RETRY_BUDGET = RetryBudget()
BUSY_PATIENCE_S = 60.0
"""A request that an engine sent away with a pause waits for so long; then such an answer is a failure."""


class Cause(StrEnum):
    """Why an attempt goes back."""

    FAILED = "failed"
    """The engine failed it: counts, and the engine is excluded."""
    LAPSED = "lapsed"
    """Its worker was lost: counted apart. The first is the worker's, from the second on the engine is excluded."""
    BUSY = "busy"
    """The engine asked to be left alone for a while: counts as FAILED only after the patience with busy engines."""
    RETURNED = "returned"
    """Given back untouched, e.g. by a draining worker."""
    STALE = "stale"
    """What another engine has read of it is of no use any more: it begins anew, and nobody is to blame."""


@dataclass(slots=True, frozen=True)
class Requeue:
    """One attempt to give back."""

    request_id: str
    attempt: int | None
    """None: whichever is current (only where the engine's lease has lapsed)."""
    cause: Cause
    last_error: Ending | None = None
    """What the client is told if there is no further attempt."""
    reason: str = ""
    """What the request's history says instead of that one's message, for operators; empty: the message."""


async def requeue(
    store: Store,
    pool: str,
    engine: str,
    worker: str,
    items: Sequence[Requeue],
    *,
    max_failures: int = 3,
    budget: RetryBudget = RETRY_BUDGET,
    busy_patience_s: float = BUSY_PATIENCE_S,
) -> list[str]:
    """For each: ``waiting``, ``lost``, or the outcome with which it ended instead.

    Args:
        worker: the session that holds the engine; empty: nobody does, its lease has lapsed.
        max_failures: with so many failed attempts a request ends as failed.
        budget: what is beyond it ends as failed, too.
        busy_patience_s: so long after the first engine that was busy (``Cause.BUSY``) the next one has failed.
    """
    keys = store.keys.pool(pool)
    names = [
        keys.engine(engine),
        keys.reservations(engine),
        keys.assigned(engine),
        keys.room,
        keys.waiting,
        keys.freed,
        keys.counters,
        keys.dead,
        keys.retries,
        keys.backlog,
        keys.settings,
        keys.misranked,
    ]
    arguments: list[Argument] = [store.now(), engine, worker, max_failures, MAX_LAPSES]
    arguments += (CANCELLED, EXPIRED_RUNNING, DEAD, CUT_OFF, budget.share, budget.floor)
    arguments += (busy_patience_s * 1000, len(items))
    for item in items:
        names += (keys.record(item.request_id), keys.body(item.request_id), keys.output(item.request_id))
        arguments += (
            item.request_id,
            "" if item.attempt is None else item.attempt,
            item.cause,
            item.last_error.encode() if item.last_error else b"",
            item.reason,
        )
    return [result.decode() for result in await _SCRIPT(store, names, arguments)]
