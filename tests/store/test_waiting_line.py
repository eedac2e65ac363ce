"""The waiting set from its head: what is remembered of whom has been met."""

from __future__ import annotations

from sagellm_control.store.steps.assign import Move
from sagellm_control.store.waiting_line import WaitingLine

from ..pool_driver import PoolDriver


async def test_which_engines_have_failed_it_since_is_known(pool: PoolDriver) -> None:
    """Somebody else has placed it meanwhile. Who went by what was so before would leave an engine idle beside it."""
    for engine in ("e1", "e2"):
        await pool.engine(engine)
    line = WaitingLine(pool.store, pool.name)
    await pool.running("a")
    await pool.requeue("a")
    assert [(met.attempts, met.arrival.excluded) for met in await line.read(0, 1)] == [(1, ("e1",))]
    assert (await pool.assign(Move("a", 1, "e2"))).results == ["assigned"]
    await pool.requeue("a", attempt=2, engine="e2")
    assert [(met.attempts, met.arrival.excluded) for met in await line.read(0, 1)] == [(2, ("e1", "e2"))]
