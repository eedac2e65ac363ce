"""The ``x-ratelimit-*`` headers: how much of a pool's queue is left, as last looked at."""

from __future__ import annotations

import math

from ..client.errors import IN_BYTES, QueueFull
from ..client.pools import Pools
from ..store.steps.accept import AcceptLimits

LONGEST_GUESS_S = 3600


def rate_limits(pools: Pools, limits: AcceptLimits, pool: str, *, none_left: bool = False) -> dict[str, str]:
    """As OpenAI's API has them: the limit, what is left of it, and when all of it will be (at the rate of now).

    Args:
        none_left: the queue has refused or given up a request because it is full, whatever it looked like last.
    """
    depth = pools.depth(pool)
    if depth is None:
        return {}
    waiting = depth.waiting + sum(depth.queued.values())
    headers = {
        "x-ratelimit-limit-requests": str(limits.max_waiting),
        "x-ratelimit-remaining-requests": str(0 if none_left else max(0, limits.max_waiting - waiting)),
    }
    if not waiting:
        headers["x-ratelimit-reset-requests"] = "0s"
    elif (rate := pools.drain_rate(pool)) > 0:
        headers["x-ratelimit-reset-requests"] = f"{math.ceil(waiting / rate)}s"
    elif (rate := pools.rate(pool)) > 0:
        # What ended while there was less to do says too little to speak of more than an hour.
        headers["x-ratelimit-reset-requests"] = f"{min(LONGEST_GUESS_S, math.ceil(waiting / rate))}s"
    return headers


def rate_limits_when_full(pools: Pools, limits: AcceptLimits, pool: str, full: QueueFull) -> dict[str, str]:
    """The same for a request that a bound has kept out: nothing is left of that bound."""
    headers = rate_limits(pools, limits, pool, none_left=True)
    if headers and full.reason not in IN_BYTES:
        headers["x-ratelimit-limit-requests"] = str(full.limit)
    return headers
