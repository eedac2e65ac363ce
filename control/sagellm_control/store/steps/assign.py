"""assign: waiting requests go to engines, in the order of their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..connect import Store
from ..script import Argument, Script
from .admit import INLINE_BODY_BYTES
from .endings import EXPIRED_WAITING

_SCRIPT = Script("assign")


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class Placement:
    """What a scheduler decided about one waiting request, in the order of the waiting set."""

    request_id: str
    attempts: int
    """How many it had when the decision was made."""
    engine: str | None
    """None: no engine that it may use has room; the next in line may pass it."""


@dataclass(slots=True, frozen=True)
class Assigned:
    """What became of the decisions."""

    results: list[str]
    """``assigned``, ``gone``, ``expired`` or ``passed``; after ``stale`` nothing more was tried."""
    places: dict[str, int]
    """Places left on the engines that were looked at."""
    waiting: int
    open_engines: int


async def assign(
    store: Store, pool: str, placements: Sequence[Placement], *, settles: Sequence[str] = (), passed: int = 0
) -> Assigned:
    """Carry out placements of one pool; ``settles`` are freed entries that this answers.

    Args:
        passed: so many at the head were looked at before and cannot use what is free.
    """
    keys = store.keys.pool(pool)
    engines = list(dict.fromkeys(p.engine for p in placements if p.engine))
    number = {engine: i for i, engine in enumerate(engines, 1)}
    names = [keys.waiting, keys.room, keys.counters, keys.freed]
    for engine in engines:
        names += (keys.engine(engine), keys.reservations(engine), keys.assigned(engine))
    arguments: list[Argument] = [store.now(), INLINE_BODY_BYTES, EXPIRED_WAITING, passed]
    arguments += (len(settles), *settles, len(engines), *engines, len(placements))
    for p in placements:
        names += (keys.record(p.request_id), keys.body(p.request_id), keys.output(p.request_id))
        arguments += (p.request_id, p.attempts, number[p.engine] if p.engine else 0)
    results, places, waiting, open_engines = await _SCRIPT(store, names, arguments)
    return Assigned(
        [result.decode() for result in results],
        {engine: left for engine, left in zip(engines, places, strict=True) if left >= 0},
        waiting,
        open_engines,
    )
