"""A gateway that proposes engines."""

from __future__ import annotations

from sagellm_control.store.steps.accept import Accepted, Proposal

from ..pool_driver import PoolDriver
from ..pool_state import read_state


async def accept_at_once(pool: PoolDriver, i: int, j: int) -> None:
    """Two requests, for which a gateway proposes what it takes for right: an engine, another one, or none."""
    state = await read_state(pool.store, pool.keys)
    ahead = len(state.waiting) + state.intake.total()
    rank = pool.clock.now_ms + 1
    # The second one is more urgent at times.
    ranks = {f"r{i}": rank, f"r{(i + 1) % 8}": rank + (0.5 if j % 2 else -0.5)}
    engines = [("e1", "e2"), ("e2", "e2"), ("e2", None), (None, "e1")][j]
    proposals = {r: Proposal(rank, engine) for (r, rank), engine in zip(ranks.items(), engines, strict=True)}
    batch = await pool.accept_at_once(proposals, stream=True, continuable=i % 2 == 0, ticket="ticket-1")
    assert batch.ahead == ahead
    urgent_first = sorted(zip(ranks, batch.results, strict=True), key=lambda item: ranks[item[0]])
    new = [result.assigned for _, result in urgent_first if isinstance(result, Accepted) and result.arrived_ms]
    # Invariant 6: nobody was ahead of it, and of the two the more urgent one goes first.
    assert new == sorted(new, reverse=True)
    assert not (any(new) and ahead), "it has overtaken who waits"
