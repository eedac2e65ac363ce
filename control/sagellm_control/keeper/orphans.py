"""Ends requests whose gateway is gone and whom nobody came back for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from ..store.connect import Store
from ..store.inspect import clock_of
from ..store.listeners import (
    ANNOUNCE_EVERY_S,
    Listened,
    due_orphans,
    forget_listeners,
    limited_requests,
    listener_leases,
    read_listened,
    settle_orphan,
)
from ..store.steps.cancel import cancel
from ..store.steps.endings import ORPHANED
from ..store.steps.listen import note_orphan
from ..store.trouble import Trouble
from . import metrics

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
WALKS = 2
"""How often the requests are walked through for one lost gateway: the first walk may miss what goes back meanwhile."""
REMEMBERED_MS = 3600 * 1000.0
"""A lost gateway is forgotten after so long; until then each keeper may still have to hear of it."""


class OrphanKeeper:
    """Looks after one pool.

    1. When a gateway is gone, the requests that only it listened to are noted, with the time at which they have been
       alone for as long as they may.
    2. When that time has come, and nobody has attached, and the gateway is still gone, the request is cancelled.

    While Redis is away, or takes no writes, no gateway can renew its lease and no client can come back. So a gateway is
    gone only when its lease has been lapsed in every look for longer than a living one needs to say so, and nobody is
    cancelled before looks have succeeded for as long. A look that fails begins that time anew.
    """

    def __init__(self, store: Store, pool: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """``monotonic``: a clock in seconds."""
        self.store = store
        self.pool = pool
        settings = store.settings
        self._patience_s = ANNOUNCE_EVERY_S + settings.command_timeout_s + settings.connect_timeout_s
        self._monotonic = monotonic
        self._start_over()

    def _start_over(self) -> None:
        self._looking_since: float | None = None
        self._lapsed_since: dict[str, float] = {}
        self._walked: dict[str, int] = {}

    async def run(self) -> None:
        """Keep until cancelled."""
        trouble = Trouble(log, f"pool {self.pool}: cannot look for orphaned requests")
        while True:
            with trouble.told():
                await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> int:
        """Look once; how many requests were cancelled."""
        try:
            return await self._look()
        except BaseException:
            self._start_over()
            raise

    async def _look(self) -> int:
        now, leases = await self._read_leases()
        lapsed = {inbox for inbox, until in leases.items() if until <= now}
        # One that was only slow, and is back, may be lost later.
        self._lapsed_since = {inbox: since for inbox, since in self._lapsed_since.items() if inbox in lapsed}
        gone = {inbox for inbox in lapsed if self._is_over(self._lapsed_since.get(inbox))}
        unproven = lapsed != gone or not self._is_over(self._looking_since)
        if unproven or any(until < now - REMEMBERED_MS for until in leases.values()):
            # Also where nobody is to be forgotten: a server that takes no writes can be read, and renews no lease.
            await forget_listeners(self.store, now - REMEMBERED_MS)
        moment = self._monotonic()
        self._looking_since = moment if self._looking_since is None else self._looking_since
        self._lapsed_since = {inbox: self._lapsed_since.get(inbox, moment) for inbox in lapsed}
        self._walked = {inbox: walks for inbox, walks in self._walked.items() if inbox in gone}
        if any(self._walked.get(inbox, 0) < WALKS for inbox in gone):
            await self._note(leases, gone, now)
            self._walked = {inbox: self._walked.get(inbox, 0) + 1 for inbox in gone}
        return await self._end(gone) if self._is_over(self._looking_since) else 0

    def _is_over(self, since: float | None) -> bool:
        """Whether a living gateway would have said so since then."""
        return since is not None and self._monotonic() - since > self._patience_s

    async def _read_leases(self) -> tuple[float, dict[str, float]]:
        return await clock_of(self.store, self.store.keys.gateways()), await listener_leases(self.store)

    async def _note(self, leases: dict[str, float], gone: set[str], now: float) -> None:
        async for request in limited_requests(self.store, self.pool):
            # One that is not known may be about to announce itself.
            until = _alone_until(request, leases, unknown_ms=now)
            if until is not None and _all_gone(request, leases, gone):
                await note_orphan(self.store, self.pool, request.request_id, until)

    async def _end(self, gone: set[str]) -> int:
        due = await due_orphans(self.store, self.pool, await clock_of(self.store, self.store.keys.gateways()))
        alone = {request.request_id: request for request in await read_listened(self.store, self.pool, due)}
        # Again, as it may have taken a while to come here.
        now, leases = await self._read_leases()
        gone = {inbox for inbox in gone if leases.get(inbox, 0.0) <= now}
        ended = 0
        for request_id in due:
            request = alone.get(request_id)
            silent = () if request is None else [i for i in request.inboxes if leases.get(i, now) <= now]
            if any(inbox in leases and inbox not in gone for inbox in silent):
                continue  # whether it is gone will be known soon
            noted = await settle_orphan(self.store, self.pool, request_id)
            if request is None or not noted:
                continue
            until = _alone_until(request, leases)
            if until is None or until <= now:
                await cancel(self.store, self.pool, request_id, ending=ORPHANED)
                metrics.ORPHANS.labels(self.pool).inc()
                log.warning("pool %s: request %r is cancelled: its gateway is gone", self.pool, request_id)
                ended += 1
            elif _all_gone(request, leases, gone):
                await note_orphan(self.store, self.pool, request_id, until)
        return ended


def _all_gone(request: Listened, leases: dict[str, float], gone: set[str]) -> bool:
    return all(inbox in gone or inbox not in leases for inbox in request.inboxes)


def _alone_until(request: Listened, leases: dict[str, float], *, unknown_ms: float = 0.0) -> float | None:
    """When its grace is over, if all who listen are gone by then; None: nobody is said to listen."""
    if not request.inboxes:
        return None
    return max(leases.get(inbox, unknown_ms) for inbox in request.inboxes) + request.grace_ms
