"""append: output of current attempts is logged and published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..connect import Store
from ..script import Argument, Script

_SCRIPT = Script("append")


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class Output:
    """The next piece of an answer."""

    request_id: str
    attempt: int
    sequence: int
    """From 1; the same piece sent again keeps its number."""
    payload: bytes
    """Whole server-sent events."""


async def append(store: Store, pool: str, engine: str, worker: str, outputs: Sequence[Output]) -> list[bool]:
    """Whether each piece is in the log; False: the attempt is no longer the current one."""
    keys = store.keys.pool(pool)
    names = [keys.engine(engine)]
    arguments: list[Argument] = [engine, worker, len(outputs)]
    for output in outputs:
        names += (keys.record(output.request_id), keys.output(output.request_id))
        arguments += (output.request_id, output.attempt, output.sequence, output.payload)
    return [result == b"ok" for result in await _SCRIPT(store, names, arguments)]
