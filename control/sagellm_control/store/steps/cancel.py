"""cancel: a request ends, wherever it is."""

from __future__ import annotations

from enum import StrEnum

from redis.exceptions import ResponseError

from ...wire.event import Ending
from ...wire.keys import read_name
from ...wire.priority import RequestPriority
from ...wire.states import Outcome
from ..connect import Store
from ..script import Script, is_misplaced
from .endings import CANCELLED, EXPIRED_UNREAD, EXPIRED_WAITING

_SCRIPT = Script("cancel")


class CancelResult(StrEnum):
    """What a cancellation found."""

    UNKNOWN = "unknown"
    FINISHED = "finished"
    """It had ended before."""
    ENDED = "ended"
    """It had not started, and ended now."""
    SERVED = "served"
    """It was only to end if it had no engine, and it has one, or may have."""
    STOPPING = "stopping"
    """It runs; its worker has been told to stop it."""


async def cancel(
    store: Store,
    pool: str,
    request_id: str,
    outcome: Outcome = Outcome.CANCELLED,
    *,
    ending: bytes = CANCELLED,
    ticket: str = "",
) -> CancelResult:
    """End a request; ``outcome`` is CANCELLED, or EXPIRED where its timeout passed.

    Args:
        ending: of one that is cancelled before a worker has it.
        ticket: of the submission that is meant: another request of the same id is left alone; empty: any.
    """
    endings = (EXPIRED_WAITING, EXPIRED_UNREAD) if outcome is Outcome.EXPIRED else (ending, ending)
    return await _cancel(store, pool, request_id, outcome, endings, unserved=False, ticket=ticket)


async def give_up(store: Store, pool: str, request_id: str, ending: Ending, *, ticket: str = "") -> CancelResult:
    """End a request that was held for an engine, if there still is none; ``ending`` has the outcome EXPIRED.

    Args:
        ticket: as for ``cancel``.
    """
    endings = (ending.encode(), ending.encode())
    return await _cancel(store, pool, request_id, ending.outcome, endings, unserved=True, ticket=ticket)


async def _cancel(
    store: Store,
    pool: str,
    request_id: str,
    outcome: Outcome,
    endings: tuple[bytes, bytes],
    *,
    unserved: bool,
    ticket: str = "",
) -> CancelResult:
    keys = store.keys.pool(pool)
    while True:
        try:
            priority, engine = await store.commands.hmget(keys.record(request_id), "priority", "engine")
        except ResponseError as error:
            if not is_misplaced(error):
                raise
            priority = engine = None  # what has another type is no record
        if priority is None:
            return CancelResult.UNKNOWN
        level = int(priority) if priority.isdigit() and int(priority) in tuple(RequestPriority) else 0
        intake = keys.intake[level]
        on = read_name(engine) if engine else ""
        names = [
            keys.record(request_id),
            keys.body(request_id),
            keys.output(request_id),
            keys.waiting,
            keys.counters,
            intake,
            keys.assigned(on) if on else intake,
            keys.room,
            keys.backlog,
            keys.virtual_time,
            keys.tenants,
            keys.settings,
        ]
        arguments = [store.now(), request_id, on, outcome, *endings, int(unserved), ticket]
        result = (await _SCRIPT(store, names, arguments)).decode()
        if result != "moved":
            return CancelResult(result)
