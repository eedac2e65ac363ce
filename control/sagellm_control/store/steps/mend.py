"""census, mend, heal: what is derived is compared with what is owned, and put right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ...wire.keys import read_name
from ...wire.priority import RequestPriority
from ...wire.request import SCHEDULING_FIELDS
from ...wire.states import Outcome
from ..connect import Store
from ..script import Argument, Script
from .endings import EXPIRED_WAITING, UNREADABLE
from .engines import give_back
from .requeue import Cause

_CENSUS = Script("census")
_MEND = Script("mend")
_HEAL = Script("heal")

LOST = "lost"
"""Counter of requests whose record vanished."""
_ENDED = (*(str(outcome) for outcome in Outcome), LOST)
_ENTRY_FIELDS = tuple(name for name in SCHEDULING_FIELDS if not name.startswith("excluded"))


class Repair(StrEnum):
    """What was found wrong, and put right."""

    STRAY_IN_WAITING = "stray_in_waiting"
    """In the waiting set without a record, or with one that says something else."""
    STRAY_RESERVATION = "stray_reservation"
    """A place on an engine without a living request that owns it."""
    LOST_FROM_INTAKE = "lost_from_intake"
    """Queued, and in no intake stream."""
    LOST_FROM_WAITING = "lost_from_waiting"
    """Waiting, and not in the waiting set."""
    LOST_FROM_ASSIGNED = "lost_from_assigned"
    """Assigned, and not in the engine's stream, so that its worker would never hear of it."""
    LOST_RESERVATION = "lost_reservation"
    """Running without a place."""
    OWNERLESS = "ownerless"
    """On an engine that nobody holds, without a place there."""
    UNREADABLE = "unreadable"
    """Its state was none that there is; it was given up, or marked as finished if it has an outcome."""
    EXPIRED_WAITING = "expired_waiting"
    """Its timeout passed in the middle of the waiting set."""
    WRONG_ROOM = "wrong_room"
    """The note of an engine's free places was wrong."""
    NO_LEASE = "no_lease"
    """An engine that is held, or holds requests, without a lease that could lapse."""
    WRONG_BACKLOG = "wrong_backlog"
    """What waits was counted, and nothing does."""
    MISPLACED = "misplaced"
    """A key that somebody has made into another type; it was deleted."""
    UNLISTED_ENGINE = "unlisted_engine"
    """An engine with a row that is not in the set of engines."""
    UNKNOWN_POOL = "unknown_pool"
    """Arrivals in a pool that is not in the set of pools."""


@dataclass(slots=True, frozen=True)
class Census:
    """How many requests there are, counted in two ways at one moment."""

    living: int
    """Accepted and not ended, by the counters."""
    placed: int
    """In an intake stream, in the waiting set or with a place on an engine."""

    @property
    def missing(self) -> int:
        """Requests that are in no place; negative: places hold what is no request."""
        return self.living - self.placed


async def census(store: Store, pool: str, engines: Sequence[str]) -> Census:
    """Count the requests of a pool."""
    keys = store.keys.pool(pool)
    names = [keys.counters, keys.waiting, *keys.intake, *(keys.reservations(engine) for engine in engines)]
    living, placed = await _CENSUS(store, names, [len(engines), *_ENDED])
    return Census(int(living), int(placed))


async def mend(store: Store, pool: str, request_id: str, engine: str | None = None) -> list[Repair]:
    """Make a request's places agree with its record, or give it up if that says no state; what was put right, empty:
    nothing was wrong.

    Args:
        engine: one that has a place for it; None: the one that its record names.
    """
    keys = store.keys.pool(pool)
    priority, on = await store.commands.hmget(keys.record(request_id), "priority", "engine")
    level = int(priority) if priority and priority.isdigit() and int(priority) in tuple(RequestPriority) else 0
    place = engine if engine is not None else read_name(on) if on else ""
    names = [
        keys.record(request_id),
        keys.body(request_id),
        keys.output(request_id),
        keys.waiting,
        keys.counters,
        keys.room,
        keys.freed,
        keys.intake[level],
        keys.engine(place),
        keys.reservations(place),
        keys.assigned(place),
        keys.backlog,
        keys.virtual_time,
        keys.tenants,
        keys.settings,
        keys.misranked,
        keys.dead,
    ]
    arguments: list[Argument] = [store.now(), request_id, place, EXPIRED_WAITING, UNREADABLE]
    arguments += (len(_ENTRY_FIELDS), *_ENTRY_FIELDS)
    repairs = [Repair(name.decode()) for name in await _MEND(store, names, arguments)]
    if Repair.OWNERLESS in repairs:
        await give_back(store, pool, place, [request_id], Cause.LAPSED)
    return repairs


async def heal(store: Store, pool: str, engines: Sequence[str], *, grace_ms: int) -> list[tuple[Repair, str]]:
    """Make what is noted of these engines agree with their rows; what was put right, and of which engine."""
    keys = store.keys.pool(pool)
    names = [keys.room, keys.waiting, keys.freed, keys.engines, keys.leases, keys.backlog, *keys.intake]
    for engine in engines:
        names += (keys.engine(engine), keys.reservations(engine))
    answer = await _HEAL(store, names, [store.now(), grace_ms, len(engines), *engines])
    return [(Repair(what.decode()), read_name(of)) for what, of in zip(answer[::2], answer[1::2], strict=True)]
