"""Says that this process is alive, to whoever would end the requests of a gateway that is not."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from ..store.connect import Store
from ..store.listeners import ANNOUNCE_EVERY_S
from ..store.steps.listen import announce_listener
from ..store.trouble import Trouble

log = logging.getLogger(__name__)

LEASE_S = 10.0
"""Longer than any stall of a healthy process: one that is taken for dead too early may lose its clients' requests."""


class Presence:
    """The lease of one inbox. It begins with the first request that somebody has to listen to."""

    def __init__(self, store: Store, inbox: str, subscribed: asyncio.Event) -> None:
        self._store = store
        self._inbox = inbox
        self._subscribed = subscribed
        self._needed = asyncio.Event()

    def begin(self) -> None:
        """Be known as alive from now on; nothing waits for it."""
        self._needed.set()

    async def run(self) -> None:
        """Announce until cancelled. The lease is left to lapse: who listens elsewhere by then is not disturbed."""
        await self._needed.wait()
        trouble = Trouble(log, "cannot announce this gateway")
        while True:
            with trouble.told():
                await announce_listener(self._store, self._inbox, 1000 * LEASE_S)
            await self._pause()

    async def _pause(self) -> None:
        if self._subscribed.is_set():
            await asyncio.sleep(ANNOUNCE_EVERY_S)
            return
        # Redis is away, and with it the lease may have lapsed: it is told at once when the inbox hears again.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANNOUNCE_EVERY_S):
                await self._subscribed.wait()
