"""What a client knows about the pools: which model is served by which, how full they are and how fast they drain."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

import orjson
from redis.exceptions import RedisError

from ..store.backoff import Backoff
from ..store.batch import Batcher
from ..store.connect import Store
from ..store.inspect import PoolDepth, list_pools, model_index, number, pool_depth
from ..store.trouble import Trouble
from ..wire.priority import RequestPriority
from ..wire.request import NewRequest
from ..wire.states import Outcome
from .draining import Draining

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
LOOK_WITHIN_S = 2.0
"""A server that takes longer to say how full a pool is would take too long to take a request. One that leaves a
question without an answer for so long is away."""
TURN_S = 0.1
"""That time is counted in waits of so long: what this process spends on something else, or stopped, is no silence."""
MOST_ASKING = 10_000
"""Who waits for the answer to one look."""
TWICE = 2
"""One look that fails is a connection that was lost; two are a server that is away."""
RATE_MEMORY_S = 10.0
"""Time constant of the moving average of the drain rate."""
LEAST_RATE = 0.001
"""Requests a second. An average below it is what is left of other times, and says nothing."""
NO_RATE_RETRY_S = 10
"""What a client is told while nothing is known about the rate."""
LONGEST_RETRY_S = 60

Answer = TypeVar("Answer")


class Pools:
    """A view of all pools that is renewed once a second, and at once when a model is not known."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.models: dict[str, str] = {}
        """Name that a client may ask for -> pool. An attribute: each request reads it, and a property is a call."""
        self._names: list[str] = []
        """Of all pools, also of those that serve no model now: they may have requests."""
        self._depths: dict[str, PoolDepth] = {}
        self._rates: dict[str, float] = {}
        self._draining: dict[str, Draining] = {}
        """Pools in which requests wait."""
        self._looked_at = float("-inf")
        self.silence_s = 0.0
        """For how long (s) Redis has left the question without an answer for which this process waits."""
        self._troubles: dict[str, tuple[int, Exception]] = {}
        self._looks: Batcher[None, None] = Batcher(self._look_for, limit=MOST_ASKING)
        """All who ask while one look is under way share the next one, so that its trouble is counted once."""

    @property
    def known(self) -> bool:
        """Whether Redis has ever said which pools there are."""
        return self._looked_at > float("-inf")

    @property
    def answered(self) -> bool:
        """Whether Redis answers."""
        return self.known and self.silence_s < LOOK_WITHIN_S

    def trouble(self, pool: str) -> Exception | str | None:
        """Why nothing can be put into a pool at the moment: what Redis or the way to it gave, or words; None: nothing
        is known against it."""
        times, error = self._troubles.get(pool, (0, None))
        if times >= TWICE:
            return error
        if self.silence_s >= LOOK_WITHIN_S:
            return f"Redis has not answered for {self.silence_s:.0f} s"
        return None

    @property
    def depths(self) -> list[PoolDepth]:
        """How full each pool is."""
        return list(self._depths.values())

    def depth(self, pool: str) -> PoolDepth | None:
        """How full a pool is; None: it has not been looked at."""
        return self._depths.get(pool)

    @property
    def names(self) -> list[str]:
        """Of all pools, also of those whose engines have been removed."""
        return self._names

    def available_models(self) -> list[str]:
        """The names whose pool has an engine that takes requests."""
        ready = {depth.pool for depth in self._depths.values() if depth.engines}
        return sorted(model for model, pool in self.models.items() if pool in ready)

    def card(self, model: str) -> dict[str, Any]:
        """What an engine says of a model; empty: nothing is known."""
        depth = self._depths.get(self.models.get(model, ""))
        try:
            card: Any = orjson.loads(depth.cards.get(model, "{}") if depth else "{}")
        except orjson.JSONDecodeError:
            return {}
        return cast("dict[str, Any]", card) if isinstance(card, dict) else {}

    async def find(self, model: str) -> str | None:
        """The pool that serves a model; None: no pool does."""
        if model not in self.models:
            await self.look()
        return self.models.get(model)

    async def with_request(self, request_id: str, *, besides: str | None = None) -> list[str]:
        """The pools that have a request of this id, but for one of them."""
        pools = sorted({*self._names} - {besides})
        if not pools:
            return []
        pipe = self._store.commands.pipeline(transaction=False)
        for pool in pools:
            pipe.exists(self._store.keys.pool(pool).record(request_id))
        return [pool for pool, there in zip(pools, await pipe.execute(), strict=True) if there]

    def retry_after_s(self, pool: str) -> int:
        """When to come back: the time in which a tenth of what waits has been served, at the measured rate."""
        depth, rate, longest_s = self._depths.get(pool), self.drain_rate(pool), LONGEST_RETRY_S
        if rate <= 0:
            # What ended lately says too little of what the engines can do to send anybody away for long.
            rate, longest_s = self.rate(pool), NO_RATE_RETRY_S
        if depth is None or rate <= 0:
            return NO_RATE_RETRY_S
        waiting = depth.waiting + sum(depth.queued.values())
        return min(longest_s, max(1, math.ceil(waiting / 10 / rate)))

    def rate(self, pool: str) -> float:
        """Requests a second that leave the pool with an outcome, however few there are to serve; 0: not known."""
        return self._rates.get(pool, 0.0)

    def drain_rate(self, pool: str) -> float:
        """The same while requests wait, so that it is the engines that bound it; 0: that is not known (yet)."""
        # The moving average would remember how little there was to do before.
        draining = self._draining.get(pool)
        return draining.rate if draining else 0.0

    def wait_s(self, pool: str, priority: RequestPriority) -> float:
        """How long a request that comes now waits for an engine, at the rate at which the pool drains: for those of
        its class and of more urgent ones. 0 where nobody waits, or nothing is known of the rate."""
        depth, rate = self._depths.get(pool), self.drain_rate(pool)
        if depth is None or rate <= 0 or (depth.open_engines and not depth.waiting):
            return 0.0
        ahead = sum(depth.backlog.get(p.label, 0) for p in RequestPriority if p <= priority)
        return ahead / rate

    def is_too_late(self, request: NewRequest) -> bool:
        """Whether the request would miss its objective for the first token, and is not to be served late."""
        depth = self._depths.get(request.pool)
        if depth is None:
            return False
        objective_ms = request.slo_ms or number(depth.settings.get("ttft_slo_ms"))
        refuses = request.reject_late or depth.settings.get("late") == "refuse"
        return refuses and 0 < objective_ms < self.wait_s(request.pool, request.priority) * 1000

    async def run(self) -> None:
        """Look until cancelled."""
        backoff, trouble = Backoff(longest_s=LOOK_EVERY_S), Trouble(log, "cannot look at the pools")
        while True:
            try:
                await self.look()
            except Exception as error:
                trouble.tell(error)
                await backoff.pause()
                continue
            backoff.reset()
            trouble.over()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """What there is to know is known afterwards, as it was when this was called or later.

        Raises:
            RedisError, OSError: the models are not known, or one of the pools could not be looked at.
        """
        await self._looks.submit(None)

    async def _look_for(self, asking: Sequence[None]) -> Sequence[None]:
        # In a cluster each pool may be on another server, so each is looked at by itself.
        try:
            models, pools = await _within(LOOK_WITHIN_S, self._index(), self._count_silence)
            self.silence_s = 0.0
        except (RedisError, OSError) as error:
            self.silence_s += LOOK_EVERY_S  # nothing will be heard before the next look
            for pool in self._names:
                self._fail(pool, error)
            raise
        answers = await asyncio.gather(*(self._depth(pool) for pool in pools), return_exceptions=True)
        problem: Exception | None = None
        depths: dict[str, PoolDepth] = {}
        for pool, answer in zip(pools, answers, strict=True):
            if isinstance(answer, PoolDepth):
                depths[pool] = answer
                self._troubles.pop(pool, None)
            elif isinstance(answer, RedisError | OSError):
                problem = answer
                self._fail(pool, answer)
            else:
                raise answer
        self._learn(models, pools, depths)
        if problem is not None:
            raise problem
        return asking

    async def _index(self) -> tuple[dict[str, str], list[str]]:
        models = await model_index(self._store)
        return models, sorted({*models.values(), *await list_pools(self._store)})

    async def _depth(self, pool: str) -> PoolDepth:
        return await _within(LOOK_WITHIN_S, pool_depth(self._store, pool))

    def _count_silence(self) -> None:
        self.silence_s += TURN_S

    def _fail(self, pool: str, error: Exception) -> None:
        times, _ = self._troubles.get(pool, (0, error))
        self._troubles[pool] = (times + 1, error)

    def _learn(self, models: dict[str, str], pools: list[str], depths: dict[str, PoolDepth]) -> None:
        now = time.monotonic()
        elapsed = now - self._looked_at
        if math.isfinite(elapsed) and elapsed > 0:
            for pool, depth in depths.items():
                if before := self._depths.get(pool):
                    rate = max(0, _ended(depth) - _ended(before)) / elapsed
                    weight = 1 - math.exp(-elapsed / RATE_MEMORY_S)
                    average = self._rates.get(pool, rate) * (1 - weight) + rate * weight
                    self._rates[pool] = average if average >= LEAST_RATE else 0.0
        # A pool that could not be looked at is as it was.
        self._depths = {pool: d for pool, d in self._depths.items() if pool in pools} | depths
        self._draining = {
            pool: self._draining.get(pool) or Draining(now, _ended(depth))
            for pool, depth in self._depths.items()
            if depth.waiting
        }
        for pool, draining in self._draining.items():
            if pool in depths:
                draining.look(now, _ended(depths[pool]))
        self.models, self._names, self._looked_at = models, pools, now


async def _within(
    limit_s: float, question: Coroutine[Any, Any, Answer], turn_over: Callable[[], None] = lambda: None
) -> Answer:
    """The answer, if it comes within this time. Raises TimeoutError."""
    asking = asyncio.ensure_future(question)
    try:
        for _ in range(round(limit_s / TURN_S)):
            done, _ = await asyncio.wait({asking}, timeout=TURN_S)
            if done:
                return asking.result()
            turn_over()
        raise TimeoutError(f"no answer within {limit_s:g} s")
    finally:
        if not asking.done():
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


def _ended(depth: PoolDepth) -> int:
    return sum(depth.counters.get(outcome, 0) for outcome in Outcome)
