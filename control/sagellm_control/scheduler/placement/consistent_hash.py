"""Equal beginnings of prompts on equal engines, without any state."""

from __future__ import annotations

import math

from ...wire.request import Arrival
from ..forecast import Forecast
from ..open_engines import OpenEngines
from .least_loaded import least_loaded

MOST_STEPS = 8
"""Engines looked at on the ring: with a bound of 1.25 a key is placed within 1/ε² = 16 steps on average at the worst
load, within 2 or 3 at a usual one (Mirrokni et al., theorem 4)."""


class ConsistentHashPlacement:
    """Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016; KubeAI places prompts with it).

    The key is the session, else the beginning of the prompt (its first ``hash_blocks`` blocks; one is not enough where
    all prompts begin with the same system prompt), else the request's id. From the key's place on the ring, the first
    engine that is open and would have at most

        ceil(bound · (requests on all engines + 1) / engines)

    requests. After ``MOST_STEPS`` engines, the least loaded.

    Args:
        bound: c of the formula, 1 + ε.
        hash_blocks: how many blocks of the prompt make the key.
    """

    name = "consistent_hash"

    def __init__(self, bound: float, hash_blocks: int) -> None:
        self.bound = bound
        self.hash_blocks = hash_blocks

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | None:
        most = math.ceil(self.bound * (engines.requests + 1) / max(1, engines.ready))
        for engine in engines.on_ring(request, self.key(request), MOST_STEPS):
            load = engines.load_of(engine)
            if load is not None and load.requests < most and engines.can_take(engine, request, forecast):
                return engine
        return least_loaded(request, forecast, engines)

    def key(self, request: Arrival) -> str:
        """What names the request's place on the ring."""
        if request.session:
            return request.session
        if request.prefix:
            # Hashes are chained: that of the n-th block covers all before it.
            return request.prefix[min(self.hash_blocks, len(request.prefix)) - 1]
        return request.id
