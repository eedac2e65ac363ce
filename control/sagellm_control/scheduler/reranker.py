"""After a change of policy: gives what waits its rank under the new one, while requests come and go."""

from __future__ import annotations

import logging

from ..store.connect import Store
from ..store.steps.policy import NewRank, Piece, next_misranked, rerank
from ..store.waiting_line import read_waiting
from . import metrics
from .lateness import step_back_ms
from .pool_policy import NO_EPOCH
from .proposal import Proposer

log = logging.getLogger(__name__)


class Reranker:
    """Takes pieces of the waiting set as long as there are any; all schedulers of the pool share them.

    A piece is read, ranked and written back by one script each; what has left the waiting set meanwhile is left
    alone. A second change of policy starts the work over under its own epoch.
    """

    def __init__(self, store: Store, pool: str, proposer: Proposer) -> None:
        self._store = store
        self._pool = pool
        self._proposer = proposer

    async def run(self) -> None:
        """Work until nothing is left to do for this scheduler."""
        policy = self._proposer.policy
        done = 0
        while policy.epoch != NO_EPOCH:
            piece = await next_misranked(self._store, self._pool, policy.epoch)
            if isinstance(piece, Piece):
                done += await self._rank(piece)
            elif piece == "changed":
                await policy.follow()
            else:
                break
        if done:
            log.info("pool %s: %d waiting requests were ranked anew by %s", self._pool, done, policy.order.name)

    async def _rank(self, piece: Piece) -> int:
        proposer, policy = self._proposer, self._proposer.policy
        found = await read_waiting(self._store, self._pool, piece.request_ids)
        # From here on nothing waits until the epoch is sent along.
        ranks: list[NewRank] = []
        for waiting in found:
            if waiting.epoch != policy.epoch:
                forecast = proposer.forecast(waiting.arrival)
                back_ms = step_back_ms(policy.order, waiting.arrival) if waiting.late else 0.0
                rank = proposer.rank(waiting.arrival, forecast) + back_ms
                ranks.append(NewRank(waiting.arrival.id, rank, proposer.charge(waiting.arrival, forecast)))
        order = policy.order
        changed = await rerank(
            self._store, self._pool, policy.epoch, piece, ranks, fair=order.fair, credit_ms=order.credit_ms
        )
        metrics.RERANKED.labels(self._pool).inc(changed or 0)
        return changed or 0
