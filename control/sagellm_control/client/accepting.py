"""Hands requests to the queue: batches by what is ready, refuses at once while Redis is away."""

from __future__ import annotations

from collections.abc import Sequence

from redis.exceptions import RedisError

from ..store.batch import Batcher
from ..store.connect import Store
from ..store.steps.accept import Accepted, AcceptLimits, AcceptResult, Exists, Full, NoEngine, accept
from ..store.steps.attach import attach
from ..wire.request import NewRequest
from .abandoned import AbandonedRequests
from .errors import NoEngineReady, QueueFull, QueueUnavailable, RequestConflict
from .pools import Pools

MOST_IN_A_BATCH = 64
MOST_WAITING_BYTES = 256 << 20
"""Bodies on their way to Redis; it takes some hundred MB a second, so that more than this means that it is stuck."""


class Accepting:
    """Requests on their way into the queue."""

    def __init__(
        self,
        store: Store,
        pools: Pools,
        abandoned: AbandonedRequests,
        limits: AcceptLimits,
        *,
        most_waiting_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        self._store = store
        self._pools = pools
        self._abandoned = abandoned
        self._limits = limits
        self._most_waiting_bytes = most_waiting_bytes
        self._waiting_bytes = 0
        self._batchers: dict[str, Batcher[tuple[NewRequest, bool], AcceptResult]] = {}

    async def accept(self, request: NewRequest, model: str, *, idempotent: bool) -> bool:
        """Whether the request was there before.

        Raises:
            NoEngineReady, QueueFull, RequestConflict.
            QueueUnavailable: at once, where Redis is known to be away or too much waits for it already.
        """
        if trouble := self._pools.trouble(request.pool):
            raise QueueUnavailable(trouble)
        if self._waiting_bytes + len(request.body) > self._most_waiting_bytes:
            raise QueueUnavailable(f"{self._waiting_bytes >> 20} MiB of requests wait for Redis already")
        self._waiting_bytes += len(request.body)
        try:
            return await self._accept(request, model, idempotent=idempotent)
        finally:
            self._waiting_bytes -= len(request.body)

    async def _accept(self, request: NewRequest, model: str, *, idempotent: bool) -> bool:
        batcher = self._batchers.get(request.pool)
        if batcher is None:
            batcher = self._batchers[request.pool] = self._batcher(request.pool)
        try:
            result = await batcher.submit((request, idempotent))
            match result:
                case Accepted():
                    return False
                case Full(waiting):
                    raise QueueFull(model, waiting, self._pools.retry_after_s(request.pool))
                case NoEngine():
                    raise NoEngineReady(model, self._pools.retry_after_s(request.pool))
                case Exists(_, same_body, same_tenant):
                    if not (idempotent and same_body and same_tenant):
                        raise RequestConflict(request.id)
                    await attach(self._store, request.pool, request.id, request.inbox)
                    return True
        except (RedisError, OSError) as error:
            if not idempotent:
                # Only the reply may have been lost, and the caller is told that the request was not taken.
                self._abandoned.add(request.pool, request.id)
            raise QueueUnavailable(error) from error

    def _batcher(self, pool: str) -> Batcher[tuple[NewRequest, bool], AcceptResult]:
        async def write(items: Sequence[tuple[NewRequest, bool]]) -> Sequence[AcceptResult]:
            return await accept(self._store, pool, [request for request, _ in items], self._limits)

        def abandoned(item: tuple[NewRequest, bool], result: AcceptResult | None) -> None:
            request, idempotent = item
            if isinstance(result, Accepted | None) and not idempotent:
                self._abandoned.add(pool, request.id)

        return Batcher(write, limit=MOST_IN_A_BATCH, abandoned=abandoned)
