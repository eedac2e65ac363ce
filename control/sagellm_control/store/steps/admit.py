"""admit: arrivals leave their intake stream, for an engine or for the waiting set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...wire.event import Ending
from ...wire.states import Outcome
from ..connect import Store
from ..script import Argument, Script
from .endings import EXPIRED_WAITING
from .rank import write_rank

_SCRIPT = Script("admit")

INLINE_BODY_BYTES = 16_384
"""Bodies up to this size travel inside the assigned entry; larger ones are read from their key by the worker."""


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class Admission:
    """What a scheduler decided about one arrival."""

    level: int
    """Which intake stream it came from: 0 (CRITICAL) … 4 (BACKGROUND)."""
    entry_id: str
    request_id: str
    rank: float = 0.0
    engine: str | None = None
    """Where it goes if it is its turn at once."""
    dead_reason: str = ""
    """Why it cannot be read; empty: it can."""


@dataclass(slots=True, frozen=True)
class Admitted:
    """What became of them."""

    results: list[str]
    """For each: ``assigned``, ``waiting``, ``gone``, ``expired`` or ``dead``."""
    places: dict[str, int]
    """Places left on the engines that were looked at."""
    waiting: int
    """Requests in the waiting set."""
    open_engines: int
    """Engines with room."""


async def admit(store: Store, pool: str, admissions: Sequence[Admission]) -> Admitted:
    """Carry out a scheduler's decisions about arrivals of one pool."""
    keys = store.keys.pool(pool)
    engines = list(dict.fromkeys(a.engine for a in admissions if a.engine))
    number = {engine: i for i, engine in enumerate(engines, 1)}
    names = [keys.waiting, keys.room, keys.counters, keys.dead, *keys.intake]
    for engine in engines:
        names += (keys.engine(engine), keys.reservations(engine), keys.assigned(engine))
    arguments: list[Argument] = [store.now(), INLINE_BODY_BYTES, EXPIRED_WAITING, len(engines), *engines]
    arguments.append(len(admissions))
    for a in admissions:
        names += (keys.record(a.request_id), keys.body(a.request_id), keys.output(a.request_id))
        arguments += (
            a.level,
            a.entry_id,
            a.request_id,
            write_rank(a.rank),
            number[a.engine] if a.engine else 0,
            a.dead_reason,
            _dead_payload(a.dead_reason) if a.dead_reason else b"",
        )
    results, places, waiting, open_engines = await _SCRIPT(store, names, arguments)
    return Admitted(
        [result.decode() for result in results],
        {engine: left for engine, left in zip(engines, places, strict=True) if left >= 0},
        waiting,
        open_engines,
    )


def _dead_payload(reason: str) -> bytes:
    return Ending(Outcome.DEAD, status=500, code="unreadable_request", message=reason).encode()
