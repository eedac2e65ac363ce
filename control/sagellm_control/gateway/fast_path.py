"""The fast path: a gateway proposes an engine for requests that nobody is ahead of, as a scheduler would."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ..scheduler.engine_watch import EngineWatch
from ..scheduler.pool_policy import PoolPolicy
from ..scheduler.proposal import Choice, Proposer
from ..store.connect import Store
from ..store.steps.accept import Accepted, AcceptedBatch, Proposal, Proposals
from ..store.trouble import Trouble
from ..wire.request import NewRequest
from . import metrics

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""The snapshot of a pool that requests come for is read again so often."""
LOOK_AGAIN_S = 0.1
"""The same where a commit has told that the snapshot is wrong about whether there is room."""
SNAPSHOT_KEPT_S = 3.0
"""Nothing is proposed on an older one."""


@dataclass(slots=True)
class _Made(Proposals):
    choices: list[Choice | None]


class GatewayFastPath:
    """Spares a request the way through a scheduler while nobody waits: ``accept`` gives it to its engine at once.

    The proposals are made by the pool's order and placement on a snapshot of its engines, and like a scheduler's they
    are checked by the script that carries them out: one that no longer holds, or whose request has somebody ahead of
    it, is none, and the request goes the usual way. It reads only while requests come, and never while one waits.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pools: dict[str, _Pool] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))

    async def propose(self, pool: str, requests: Sequence[NewRequest]) -> Proposals | None:
        """Engines for requests that are to be accepted now; None: nothing is proposed."""
        if pool not in self._pools:
            self._pools[pool] = _Pool(self._store, pool)
        try:
            return await self._pools[pool].propose(requests)
        except Exception as error:
            # The usual way is open to them, whatever is wrong here.
            self._pools[pool].give_up(error)
            return None

    def learn(self, pool: str, proposals: Proposals | None, batch: AcceptedBatch | None) -> None:
        """What became of them; None: the call failed."""
        try:
            self._pools[pool].learn(proposals, batch)
        except Exception as error:
            # They have been accepted, whatever is wrong here.
            self._pools[pool].give_up(error)


class _Pool:
    def __init__(self, store: Store, pool: str) -> None:
        self._pool = pool
        self._policy = PoolPolicy(store, pool)
        self._watch = EngineWatch(store, pool)
        self._proposer = Proposer(self._policy, self._watch)
        self._trouble = Trouble(log, f"pool {pool}: no fast path")
        self._looked_at = float("-inf")
        """When the snapshot was read. (All on the monotonic clock.)"""
        self._look_began_at = float("-inf")
        """When that was tried last."""
        self._look_at = float("-inf")
        """When it is due to be read again."""
        self._looking: asyncio.Task[None] | None = None
        self._ahead = 0
        """Requests that waited when the last ones were accepted."""
        self._at_once, self._in_line = (metrics.FAST_PATH.labels(pool, result) for result in ("assigned", "queued"))

    async def propose(self, requests: Sequence[NewRequest]) -> Proposals | None:
        if self._ahead:
            return None
        now = time.monotonic()
        self._look_if_due(now)
        if now - self._looked_at > SNAPSHOT_KEPT_S or not self._policy.understood:
            return None
        engines, now_ms = self._watch.engines, self._watch.clock.now_ms()
        if not engines.open and not engines.open_due(now_ms):
            return None
        if not all(engines.knows_who_takes(request.kind) for request in requests):
            self._look_soon()  # an engine that was just registered may
            return None
        if any(request.prefix for request in requests) and self._proposer.placements_due():
            # A prompt at the wrong engine costs far more than this read.
            await self._watch.follow_placements()
            now_ms = self._watch.clock.now_ms()
        rules = self._proposer.rules()
        each = [Proposal(0.0)] * len(requests)
        choices: list[Choice | None] = [None] * len(requests)
        # A microsecond apart, as accept has them, so that those of one call keep their order wherever they wait later.
        arrivals = [request.arrival(now_ms + n / 1000) for n, request in enumerate(requests)]
        for made in self._proposer.propose(arrivals, now_ms):
            proposal = each[made.number] = Proposal(made.rank, charge=made.charge)
            if made.choice is not None:
                choices[made.number] = made.choice
                proposal.engine = made.choice.engine
                proposal.kv_tokens, proposal.uncached_tokens = made.choice.kv_tokens, made.choice.uncached_tokens
        return _Made(each, rules, choices)

    def learn(self, proposals: Proposals | None, batch: AcceptedBatch | None) -> None:
        choices = proposals.choices if isinstance(proposals, _Made) else []
        if batch is None:
            # Whether it was carried out is not known: the next look tells.
            self._look_soon()
            for choice in filter(None, choices):
                self._proposer.give_back(choice)
            return
        self._ahead = batch.ahead
        for choice, result in zip(choices, batch.results, strict=False):
            if choice is not None:
                self._proposer.settle(choice, used=isinstance(result, Accepted) and result.assigned)
        self._watch.take_over(batch.room)
        if (batch.room.open_engines > 0) != (self._watch.engines.open > 0):
            self._look_soon()
        for result in batch.results:
            if isinstance(result, Accepted):
                (self._at_once if result.assigned else self._in_line).inc()

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def give_up(self, error: Exception) -> None:
        """Nothing is proposed until the next look."""
        self._trouble.tell(error)
        self._looked_at = float("-inf")

    def _look_soon(self) -> None:
        self._look_at = min(self._look_at, self._look_began_at + LOOK_AGAIN_S)

    def _look_if_due(self, now: float) -> None:
        # Nobody waits for it: the requests of now are decided on what is known.
        if now >= self._look_at and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look(), name=f"fast path {self._pool}")

    async def _look(self) -> None:
        self._look_began_at = time.monotonic()
        self._look_at = self._look_began_at + LOOK_EVERY_S
        with self._trouble.told():
            await self._policy.follow()
            await self._watch.sweep()
            self._looked_at = time.monotonic()
