"""Requests that are held for a pool without a READY engine: each is given up after a while, if there still is none."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from ..store.connect import Store
from ..store.steps.accept import AcceptLimits
from ..store.steps.cancel import give_up
from ..store.trouble import Trouble
from ..store.wake import hold_for_pools, wake
from ..wire.event import Ending
from ..wire.request import NewRequest
from ..wire.states import Outcome, Reason

log = logging.getLogger(__name__)

RETRY_S = 0.5
SAY_EVERY_S = 60.0
"""How often pools are kept from being forgotten, which takes a day: often enough for one that is new."""


class HeldRequests:
    """What this process holds. A request whose process dies waits on until its own timeout."""

    def __init__(self, store: Store, limits: AcceptLimits) -> None:
        self._store = store
        self._hold_s = limits.hold_s
        self._holds = limits.hold_requests > 0
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, request: NewRequest, *, retry_after_s: float) -> None:
        """Hold a request that has been accepted, and ask for an engine if nobody has yet; nothing waits for that."""
        for held in (self._wake(request.pool), self._hold(request, retry_after_s)):
            task = asyncio.create_task(held, name=f"hold {request.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _wake(self, pool: str) -> None:
        try:
            if await wake(self._store, pool, every_ms=int(self._hold_s * 1000)):
                log.info("pool %s: requests are held, and an engine was asked for", pool)
        except (RedisError, OSError) as error:
            log.warning("pool %s: requests are held, but nobody could be asked for an engine: %s", pool, error)

    async def __aenter__(self) -> Self:
        if self._holds:
            self._tasks.add(asyncio.create_task(self._keep_pools(), name="keep pools"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _keep_pools(self) -> None:
        trouble = Trouble(log, "cannot keep pools without an engine known")
        while True:
            with trouble.told():
                await hold_for_pools(self._store)
            await asyncio.sleep(SAY_EVERY_S)

    async def _hold(self, request: NewRequest, retry_after_s: float) -> None:
        await asyncio.sleep(self._hold_s)
        ending = Ending(
            Outcome.EXPIRED,
            status=503,
            code=Reason.NO_ENGINE,
            message=f"No engine became ready within {self._hold_s:g} s.",
            retry_after_s=retry_after_s,
        )
        while True:
            try:
                await give_up(self._store, request.pool, request.id, ending, ticket=request.ticket)
                return
            except (RedisError, OSError):
                await asyncio.sleep(RETRY_S)
