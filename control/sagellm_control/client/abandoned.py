"""Cancels requests that nobody waits for any more, however long Redis takes to hear of it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from ..store.connect import Store
from ..store.steps.cancel import cancel
from ..store.steps.detach import Following, detach

log = logging.getLogger(__name__)

INSIST_S = 600.0
"""So long (s) an unreachable Redis is told again; by then most requests have expired by themselves."""
FIRST_RETRY_S, LONGEST_RETRY_S = 0.05, 5.0
"""Pauses after Redis could not be reached: doubled each time, with jitter."""
FAREWELL_S = 2.0
"""What is still to be told when the process stops may take so long (s)."""


class AbandonedRequests:
    """The requests whose client has gone, until each is cancelled."""

    def __init__(self, store: Store, listens: Callable[[str], object]) -> None:
        """``listens``: whether somebody here waits for a request (again)."""
        self._store = store
        self._listens = listens
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, pool: str, request_id: str, inbox: str = "", *, patient: bool = False, ticket: str = "") -> None:
        """Nobody waits for this request.

        Args:
            inbox: who waited until now; one that another inbox gets as well is not cancelled.
            patient: do not cancel it: somebody may come back within its grace.
            ticket: of the submission that is meant, where it is not known whether the request of this id is that one.
        """
        leaving = self._leave(pool, request_id, inbox, patient, ticket)
        task = asyncio.create_task(leaving, name=f"abandoned {request_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=FAREWELL_S)
        for task in late:
            task.cancel()
        if late:
            log.warning("Redis could not be told of %d requests that nobody waits for here any more", len(late))
            await asyncio.wait(late)

    async def _leave(self, pool: str, request_id: str, inbox: str, patient: bool, ticket: str) -> None:
        pause_s = FIRST_RETRY_S
        loop = asyncio.get_running_loop()
        until = loop.time() + INSIST_S
        while loop.time() < until:
            if inbox and self._listens(request_id):
                return  # its client has come back meanwhile
            try:
                if inbox and await detach(self._store, pool, request_id, inbox) is Following.FOLLOWED:
                    return
                if not patient:
                    await cancel(self._store, pool, request_id, ticket=ticket)
                return
            except (RedisError, OSError):
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
                pause_s = min(2 * pause_s, LONGEST_RETRY_S)
        log.warning("request %s: its client left, and it could not be cancelled", request_id)
