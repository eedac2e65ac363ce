"""Hands requests to the queue: batches by what is ready, refuses at once while Redis is away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from redis.exceptions import RedisError

from ..store.batch import Batcher
from ..store.connect import Store
from ..store.steps.accept import (
    Accepted,
    AcceptedBatch,
    AcceptLimits,
    AcceptResult,
    Exists,
    Full,
    NoEngine,
    Proposals,
    accept_batch,
)
from ..store.steps.attach import attach
from ..store.steps.forget_unserved import forget_unserved
from ..wire.request import NewRequest
from .abandoned import AbandonedRequests
from .displacement import displace_and_accept
from .errors import NoEngineReady, QueueFull, QueueUnavailable, RequestConflict
from .held import HeldRequests
from .pools import Pools

MOST_IN_A_BATCH = 64
MOST_WAITING_BYTES = 256 << 20
"""Bodies on their way to Redis; it takes some hundred MB a second, so that more than this means that it is stuck."""

Item = tuple[NewRequest, bool]
"""A request, and whether it is idempotent."""


class FastPath(Protocol):
    """Knows engines for requests that nobody is ahead of."""

    async def propose(self, pool: str, requests: Sequence[NewRequest]) -> Proposals | None:
        """For requests that are to be accepted now; None: nothing is proposed."""
        ...

    def learn(self, pool: str, proposals: Proposals | None, batch: AcceptedBatch | None) -> None:
        """What became of the requests and of what was proposed; None: the call failed."""
        ...


class Acceptor:
    """One client's way into the queue."""

    def __init__(
        self,
        store: Store,
        limits: AcceptLimits,
        pools: Pools,
        abandoned: AbandonedRequests,
        held: HeldRequests,
        *,
        fast_path: FastPath | None = None,
        most_waiting_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        self._store = store
        self._limits = limits
        # The limit holds for all gateways together, as the script counts what waits in the pool.
        self._hold_limits = replace(limits, max_waiting=limits.hold_requests, without_engine=True)
        self._pools = pools
        self._abandoned = abandoned
        self._held = held
        self._fast_path = fast_path
        self._most_waiting_bytes = most_waiting_bytes
        self._waiting_bytes = 0
        self._batchers: dict[tuple[str, bool], Batcher[Item, AcceptResult]] = {}

    async def accept(
        self, request: NewRequest, model: str, *, idempotent: bool, anew: Callable[[], None] = lambda: None
    ) -> bool:
        """Put a request into its pool's queue; whether it was there before.

        Args:
            anew: called when what is known of a request of this id is forgotten, as it was turned away before any
                engine had it.

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
            return await self._accept(request, model, idempotent, anew)
        finally:
            self._waiting_bytes -= len(request.body)

    async def _accept(self, request: NewRequest, model: str, idempotent: bool, anew: Callable[[], None]) -> bool:
        batcher, item = self._batcher(request.pool, False), (request, idempotent)
        try:
            result = await batcher.submit(item)
            if isinstance(result, Accepted):
                return False
            if (
                isinstance(result, Exists)
                and result.same_body
                and result.same_tenant
                and await forget_unserved(self._store, request)
            ):
                anew()
                result = await batcher.submit(item)
            retry_after_s, hold = self._pools.retry_after_s(request.pool), False
            if isinstance(result, Full):
                result = await displace_and_accept(
                    self._store, request, result, lambda: batcher.submit(item), retry_after_s=retry_after_s
                )
            if isinstance(result, NoEngine) and self._limits.hold_requests:
                hold = True
                result = await self._batcher(request.pool, hold).submit(item)
            match result:
                case Accepted():
                    if hold:
                        self._held.add(request, retry_after_s=retry_after_s)
                    return False
                case Full(waiting, reason) if not hold:
                    limit = self._limits.bound_of(reason, request.priority)
                    raise QueueFull(model, waiting, retry_after_s, reason, limit=limit)
                case Full() | NoEngine():
                    raise NoEngineReady(model, retry_after_s)
                case Exists(_, same_body, same_tenant):
                    if not (idempotent and same_body and same_tenant):
                        raise RequestConflict(request.id)
                    await attach(self._store, request.pool, request.id, request.inbox)
                    return True
        except (RedisError, OSError) as error:
            if not idempotent:
                # Only the reply may have been lost, and the caller is told that the request was not taken.
                self._abandoned.add(request.pool, request.id, ticket=request.ticket)
            raise QueueUnavailable(error) from error

    def _batcher(self, pool: str, hold: bool) -> Batcher[Item, AcceptResult]:
        batcher = self._batchers.get((pool, hold))
        if batcher is None:
            batcher = self._new_batcher(pool, self._hold_limits if hold else self._limits)
            self._batchers[pool, hold] = batcher
        return batcher

    def _new_batcher(self, pool: str, limits: AcceptLimits) -> Batcher[Item, AcceptResult]:
        async def write(items: Sequence[Item]) -> Sequence[AcceptResult]:
            if trouble := self._pools.trouble(pool):  # found out while the batch before was under way
                raise QueueUnavailable(trouble)
            requests, fast_path = [request for request, _ in items], self._fast_path
            proposals = await fast_path.propose(pool, requests) if fast_path else None
            try:
                batch = await accept_batch(self._store, pool, requests, limits, proposals)
            except BaseException:
                if fast_path:
                    fast_path.learn(pool, proposals, None)
                raise
            if fast_path:
                fast_path.learn(pool, proposals, batch)
            return batch.results

        def abandoned(item: Item, result: AcceptResult | None) -> None:
            request, idempotent = item
            if isinstance(result, Accepted | None) and not idempotent:
                self._abandoned.add(pool, request.id, ticket=request.ticket)

        return Batcher(write, limit=MOST_IN_A_BATCH, abandoned=abandoned)
