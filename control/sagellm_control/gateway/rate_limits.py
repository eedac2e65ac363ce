"""The ``x-ratelimit-*`` headers: how much of a pool's queue is left, as last looked at."""

from __future__ import annotations

import math

from ..client.pools import Pools
from ..store.steps.accept import AcceptLimits


def rate_limits(pools: Pools, limits: AcceptLimits, pool: str) -> dict[str, str]:
    """As OpenAI's API has them: the limit, what is left of it, and when all of it will be (at the rate of now)."""
    depth = next((depth for depth in pools.depths if depth.pool == pool), None)
    if depth is None:
        return {}
    waiting = depth.waiting + sum(depth.queued.values())
    headers = {
        "x-ratelimit-limit-requests": str(limits.max_waiting),
        "x-ratelimit-remaining-requests": str(max(0, limits.max_waiting - waiting)),
    }
    rate = pools.rate(pool)
    if not waiting or rate > 0:
        headers["x-ratelimit-reset-requests"] = f"{math.ceil(waiting / rate) if waiting else 0}s"
    return headers
