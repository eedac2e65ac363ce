"""assign: waiting requests go to engines, in the order of their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ..connect import Store
from ..script import Argument, Script
from .endings import EXPIRED_WAITING, OVERLOADED, TOO_LATE
from .rank import write_rank
from .room_note import RoomAfter, read_room_after
from .rules import INLINE_BODY_BYTES, PLAIN, Rules

_SCRIPT = Script("assign")


class Late(StrEnum):
    """What becomes of a request that cannot be served in time any more."""

    STEP_BACK = "late"
    """It gets a new rank, once."""
    REFUSE = "refuse"
    """It ends."""
    SHED = "shed"
    """It ends, as the pool is overloaded and it has waited for too long."""


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class Move:
    """What a scheduler decided about one waiting request, in the order of the waiting set."""

    request_id: str
    attempts: int
    """How many it had when the decision was made."""
    engine: str | None
    """None: no engine that it may use has room, or it waits for a better one; the next in line may pass it."""
    kv_tokens: int = 0
    uncached_tokens: int = 0
    late: Late | None = None
    """In place of an engine."""
    late_since_ms: float = 0.0
    """From which moment (server time, ms) that holds."""
    rank: float = 0.0
    """The new rank of one that steps back."""
    stage: str = ""
    """Of the request, when the decision was made; see ``Arrival.stage``."""


@dataclass(slots=True, frozen=True)
class Assigned:
    """What became of the decisions."""

    results: list[str]
    """``assigned``, ``gone``, ``expired``, ``passed``, ``late``, ``refused``, ``shed``; the last may be ``stale``."""
    room: RoomAfter


async def assign(
    store: Store,
    pool: str,
    moves: Sequence[Move],
    *,
    settles: Sequence[str] = (),
    passed: int = 0,
    rules: Rules = PLAIN,
) -> Assigned:
    """Carry out the moves of one pool; ``settles`` are freed entries that this answers.

    Args:
        passed: so many at the head were looked at before and cannot use what is free.
    """
    keys = store.keys.pool(pool)
    engines = list(dict.fromkeys(m.engine for m in moves if m.engine))
    number = {engine: i for i, engine in enumerate(engines, 1)}
    names = [keys.waiting, keys.room, keys.counters, keys.freed]
    names += (keys.backlog, keys.virtual_time, keys.tenants, keys.placements, keys.settings)
    for engine in engines:
        names += (keys.engine(engine), keys.reservations(engine), keys.assigned(engine))
    arguments: list[Argument] = [store.now(), INLINE_BODY_BYTES, EXPIRED_WAITING, TOO_LATE, OVERLOADED]
    arguments += (rules.placement, int(rules.log_prefixes), passed)
    arguments += (len(settles), *settles, len(engines), *engines, len(moves))
    for m in moves:
        names += (keys.record(m.request_id), keys.body(m.request_id), keys.output(m.request_id))
        if m.engine:
            arguments += (m.request_id, m.attempts, number[m.engine], m.kv_tokens, m.uncached_tokens, m.stage)
        elif m.late:
            since = write_rank(m.late_since_ms)
            arguments += (m.request_id, m.attempts, m.late, write_rank(m.rank), since, m.stage)
        else:
            arguments += (m.request_id, m.attempts, "pass", 0, 0, m.stage)
    results, *room = await _SCRIPT(store, names, arguments)
    return Assigned([result.decode() for result in results], read_room_after(engines, room))
