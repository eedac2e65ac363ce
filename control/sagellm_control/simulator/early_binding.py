"""The reference: routers that send each request at once to an engine, where it waits in the engine's own FIFO.

Each is the rule of a well-known router, with what that router would know. None is told an output length.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from ..scheduler.ring import Ring
from .engine import Engine
from .job import Job
from .prefix_cache import PrefixCache


class Router(Protocol):
    """Chooses an engine for a request that has just come."""

    def choose(self, job: Job, engines: Sequence[Engine]) -> Engine:
        """One of the engines that are up; there is at least one."""
        ...


class RoundRobin:
    """The engines in turn."""

    def __init__(self) -> None:
        self._turn = -1

    def choose(self, job: Job, engines: Sequence[Engine]) -> Engine:
        self._turn += 1
        return engines[self._turn % len(engines)]


class Random:
    """Any engine."""

    def __init__(self) -> None:
        self._dice = random.Random(1)

    def choose(self, job: Job, engines: Sequence[Engine]) -> Engine:
        return engines[int(self._dice.random() * len(engines))]


class LeastLoaded:
    """The engine with the fewest requests, waiting or running."""

    def choose(self, job: Job, engines: Sequence[Engine]) -> Engine:
        return min(engines, key=lambda engine: engine.load)


class SglCacheAware:
    """SGLang's router: the engine with the best prefix match if that covers enough and the loads are even.

    If max − min load > 64 and max > 1.5 × min: the shortest queue. Else the best match if it covers more than 0.3 of
    the prompt, else the engine whose cache is the emptiest. The router has its own, approximate picture of the caches:
    what it has sent where.
    """

    def __init__(self) -> None:
        self._sent: dict[str, PrefixCache] = {}

    def choose(self, job: Job, engines: Sequence[Engine]) -> Engine:
        prefix = job.arrival.prefix
        loads = [engine.load for engine in engines]
        if max(loads) - min(loads) > 64 and max(loads) > 1.5 * min(loads):
            chosen = min(engines, key=lambda engine: engine.load)
        else:
            matches = [self._of(engine).matched(prefix) for engine in engines]
            best = max(matches)
            if prefix and best / len(prefix) > 0.3:
                chosen = engines[matches.index(best)]
            else:
                chosen = min(engines, key=lambda engine: (len(self._of(engine)), engine.load))
        self._of(chosen).use(prefix)
        return chosen

    def _of(self, engine: Engine) -> PrefixCache:
        if engine.id not in self._sent:
            self._sent[engine.id] = PrefixCache(engine.model.cache_blocks)
        return self._sent[engine.id]


class DynamoCost:
    """Dynamo's KV router: the lowest ``(prefill tokens on it + prompt − overlap) / block + decode blocks``.

    The overlap is with the engine's true cache, as its KV events would tell. Decode blocks are those of all requests on
    it. At least 0 tokens are left to prefill.
    """

    def choose(self, job: Job, engines: Sequence[Engine]) -> Engine:
        prompt = 0 if job.arrival.stage else job.arrival.prompt_tokens  # an answer alone costs no prefill
        prefix = job.arrival.prefix

        def cost(engine: Engine) -> float:
            block = engine.model.block_tokens
            prefill = max(engine.queued_prefill + prompt - engine.cache.matched(prefix) * block, 0)
            return prefill / block + (engine.kv_held + engine.kv_waiting) / block

        return min(engines, key=cost)


class BoundedLoadHashing:
    """Consistent hashing over the first two blocks, with bounded loads (KubeAI): no state but the loads.

    The first engine on the ring whose load would not exceed 1.25 times the mean.
    """

    BOUND = 1.25

    def __init__(self) -> None:
        self._ring = Ring()

    def choose(self, job: Job, engines: Sequence[Engine]) -> Engine:
        up = {engine.id: engine for engine in engines}
        for engine in up:
            self._ring.add(engine)
        most = self.BOUND * (sum(engine.load for engine in engines) + 1) / len(engines)
        # The first block alone may be one system prompt that all share: the second tells conversations apart.
        key = " ".join(job.arrival.prefix[:2]) or job.arrival.id
        for name in self._ring.walk(key, len(self._ring)):
            engine = up.get(name)
            if engine is not None and engine.load + 1 <= most:
                return engine
        return min(engines, key=lambda engine: engine.load)


ROUTERS: dict[str, Callable[[], Router]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_loaded": LeastLoaded,
    "sgl_cache_aware": SglCacheAware,
    "dynamo_cost": DynamoCost,
    "bounded_load_hashing": BoundedLoadHashing,
}
"""Name -> maker."""
