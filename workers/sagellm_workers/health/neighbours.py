"""The other engines of a pool, for one that would leave it because of its errors."""

from __future__ import annotations

from sagellm_control.store.connect import Store
from sagellm_control.store.inspect import engine_rows
from sagellm_control.wire.engine import EngineRole, EngineRow
from sagellm_control.wire.keys import read_name
from sagellm_control.wire.states import EngineState

BATCH = 32
"""Rows read at a time: mostly one of the first will do."""
_STAGES = {EngineRole.PREFILL: {"prefill"}, EngineRole.DECODE: {"decode"}}
_BOTH = {"prefill", "decode"}


async def others_serve(store: Store, row: EngineRow) -> bool:
    """Whether other READY engines take all that this one takes. Those that are a last resort themselves do not count.

    What is asked of an adapter that only this engine has loaded waits for it.
    """
    keys = store.keys.pool(row.pool)
    names = [read_name(name) for name in await store.commands.zrange(keys.room, 0, -1)]
    others = [name for name in names if name != row.engine_id]
    missing = set(_STAGES.get(row.role, _BOTH))
    for start in range(0, len(others), BATCH):
        for other in await engine_rows(store, row.pool, others[start : start + BATCH]):
            if other.state is EngineState.READY and not other.last_resort and _takes_kinds_of(other, row):
                missing -= _STAGES.get(other.role, _BOTH)
        if not missing:
            return True
    return False


def _takes_kinds_of(other: EngineRow, row: EngineRow) -> bool:
    return not other.kinds or (bool(row.kinds) and set(row.kinds) <= set(other.kinds))
