"""Who may pass whom, when the one in front fits no engine."""

from __future__ import annotations


def may_pass(rank: float, blocked_rank: float, patience_ms: float) -> bool:
    """Whether a request of this rank may go before one that is ahead of it and fits no engine now.

    By rank and not by a clock: ranks are times, so this says "only what came up to ``patience_ms`` later" and is the
    same for every scheduler, before and after a restart. So the number that pass is bounded by what arrives in that
    time, whatever the load; afterwards the room that comes free is kept for the one that was passed.
    """
    return rank <= blocked_rank + patience_ms
