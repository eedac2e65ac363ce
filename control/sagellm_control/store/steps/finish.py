"""finish: attempts end with the one outcome of their request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...wire.event import Ending
from ..connect import Store
from ..script import Argument, Script

_SCRIPT = Script("finish")


@dataclass(slots=True)  # not frozen, as an output is not
class Finish:
    """The end of one attempt, and of its request."""

    request_id: str
    attempt: int
    sequence: int
    ending: Ending
    output_tokens: int | None = None
    """How long the answer became; None: not known."""
    first_ms: float | None = None
    """From the call of the engine to the first byte of the answer; None: there was none."""
    held_ms: float = 0.0
    """From its assignment to its start on the engine; only asked for where no claim has told when it began."""


async def finish(store: Store, pool: str, engine: str, worker: str, finishes: Sequence[Finish]) -> list[bool]:
    """Whether each outcome stands; False: the attempt is no longer the current one."""
    keys = store.keys.pool(pool)
    names = [
        keys.engine(engine),
        keys.reservations(engine),
        keys.assigned(engine),
        keys.room,
        keys.waiting,
        keys.freed,
        keys.counters,
        keys.tenants,
        keys.virtual_time,
        keys.lengths,
        keys.backlog,
        keys.settings,
    ]
    arguments: list[Argument] = [store.now(), engine, worker, len(finishes)]
    for f in finishes:
        names += (keys.record(f.request_id), keys.body(f.request_id), keys.output(f.request_id))
        arguments += (f.request_id, f.attempt, f.sequence, f.ending.outcome, f.ending.encode())
        arguments += (
            "" if f.output_tokens is None else f.output_tokens,
            "" if f.first_ms is None else f"{f.first_ms:.1f}",
            f"{f.held_ms:.1f}",
        )
    return [result == b"ok" for result in await _SCRIPT(store, names, arguments)]
