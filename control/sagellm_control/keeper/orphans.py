"""Ends requests whose gateway is gone and whom nobody came back for."""

from __future__ import annotations

import asyncio
import logging

from ..store.connect import Store
from ..store.inspect import clock_of
from ..store.listeners import (
    Listened,
    due_orphans,
    forget_listeners,
    limited_requests,
    listener_leases,
    note_orphan,
    read_listened,
    settle_orphan,
)
from ..store.steps.cancel import cancel
from ..store.trouble import log_trouble
from . import metrics

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
WALKS = 2
"""How often the requests are walked through for one lost gateway: the first walk may miss what goes back meanwhile."""
REMEMBERED_MS = 3600 * 1000.0
"""A lost gateway is forgotten after so long; until then each keeper may still have to hear of it."""


class OrphanKeeper:
    """Looks after one pool.

    1. When a gateway's lease has lapsed, the requests that only it listened to are noted, with the time at which they
       have been alone for as long as they may.
    2. When that time has come, and nobody has attached, and the gateway is still gone, the request is cancelled.
    """

    def __init__(self, store: Store, pool: str) -> None:
        self.store = store
        self.pool = pool
        self._walked: dict[str, int] = {}

    async def run(self) -> None:
        """Keep until cancelled."""
        while True:
            try:
                await self.look()
            except Exception as error:
                log_trouble(log, f"pool {self.pool}: cannot look for orphaned requests", error)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> int:
        """Look once; how many requests were cancelled."""
        now = await clock_of(self.store, self.store.keys.gateways())
        leases = await listener_leases(self.store)
        gone = {inbox for inbox, until in leases.items() if until <= now}
        # One that was only slow, and is back, may be lost later.
        self._walked = {inbox: walks for inbox, walks in self._walked.items() if inbox in gone}
        if any(self._walked.get(inbox, 0) < WALKS for inbox in gone):
            await self._note(leases, now)
            self._walked = {inbox: self._walked.get(inbox, 0) + 1 for inbox in gone}
        ended = await self._end(leases, now)
        if any(until < now - REMEMBERED_MS for until in leases.values()):
            await forget_listeners(self.store, now - REMEMBERED_MS)
        return ended

    async def _note(self, leases: dict[str, float], now: float) -> None:
        async for request in limited_requests(self.store, self.pool):
            # One that is not known may be about to announce itself.
            until = _alone_until(request, leases, unknown_ms=now)
            if until is not None and _all_gone(request, leases, now):
                await note_orphan(self.store, self.pool, request.request_id, until)

    async def _end(self, leases: dict[str, float], now: float) -> int:
        due = await due_orphans(self.store, self.pool, now)
        alone = {request.request_id: request for request in await read_listened(self.store, self.pool, due)}
        ended = 0
        for request_id in due:
            noted = await settle_orphan(self.store, self.pool, request_id)
            request = alone.get(request_id)
            if request is None or not noted:
                continue
            until = _alone_until(request, leases)
            if until is None or until <= now:
                await cancel(self.store, self.pool, request_id)
                metrics.ORPHANS.labels(self.pool).inc()
                log.warning("pool %s: request %r is cancelled: its gateway is gone", self.pool, request_id)
                ended += 1
            elif _all_gone(request, leases, now):
                await note_orphan(self.store, self.pool, request_id, until)
        return ended


def _all_gone(request: Listened, leases: dict[str, float], now: float) -> bool:
    return all(leases.get(inbox, 0.0) <= now for inbox in request.inboxes)


def _alone_until(request: Listened, leases: dict[str, float], *, unknown_ms: float = 0.0) -> float | None:
    """When its grace is over, if all who listen are gone by then; None: nobody is said to listen."""
    if not request.inboxes:
        return None
    return max(leases.get(inbox, unknown_ms) for inbox in request.inboxes) + request.grace_ms
