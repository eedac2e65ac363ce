"""Renews a lease from a thread of its own while the worker's event loop is blocked.

A worker whose loop is held up for seconds (a huge body, a full disk under the log, a debugger) is alive, and its engine
goes on answering: to give its requests to others would run them twice. But a worker whose loop never comes back must
not hold them for ever, so the thread renews only as long as the loop has shown a sign of life lately. Meanwhile the
engine is given nothing more.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from sagellm_control.store.connect import Store
from sagellm_control.store.steps.engines import renew_engine
from sagellm_control.store.trouble import Trouble

from .. import metrics
from .lease import Lease

log = logging.getLogger(__name__)

LOOKS_A_LEASE = 8
LATE_SHARE = 0.5
"""Of a lease: a renewal that is later than this is late. (The loop itself renews after a third.)"""
LONGEST_END_S = 1.0
"""A renewal that is under way at the end is not waited for any longer; it does no harm, as the lease is ours or not."""


class StandIn:
    """Stands in for the loop on which it was made. Costs no command, and no connection, while that loop renews."""

    def __init__(self, store: Store, lease: Lease, *, patience_s: float) -> None:
        self._settings = store.settings
        self._clock = store.now
        self._lease = lease
        self._patience_s = patience_s
        self._trouble = Trouble(log, f"engine {lease.row.engine_id}: the stand-in cannot renew the lease")
        self._loop = asyncio.get_running_loop()
        self._alive_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"stand-in {lease.row.engine_id}", daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        # It may be in the middle of a renewal; the loop must not wait for that, nor anybody for a server that is away.
        await asyncio.to_thread(self._thread.join, LONGEST_END_S)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            store: Store | None = None
            told = False
            try:
                while not self._stop.wait(self._lease.lease_s / LOOKS_A_LEASE):
                    self._ask_for_life()
                    now = time.monotonic()
                    if now < self._lease.renewed_at + LATE_SHARE * self._lease.lease_s:
                        told = False
                        continue
                    if now > self._alive_at + self._patience_s:
                        if not told:
                            log.error(
                                "engine %s: the event loop has not moved for %g s; the lease is left to lapse",
                                self._lease.row.engine_id,
                                self._patience_s,
                            )
                        told = True
                        continue
                    store = store or Store(self._settings, now=self._clock)
                    runner.run(self._renew(store))
            finally:
                if store is not None:
                    runner.run(store.close())

    def _ask_for_life(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._show_life)
        except RuntimeError:  # the loop is closed
            self._stop.set()

    def _show_life(self) -> None:
        self._alive_at = time.monotonic()

    async def _renew(self, store: Store) -> None:
        lease, began = self._lease, time.monotonic()
        # Nothing more to a worker that could not begin it; the loop's own renewals tell otherwise, and what is to stop.
        row = replace(lease.row, limit=0, reason="its worker's event loop is blocked")
        try:
            renewal = await renew_engine(store, row, [], lease_ms=int(lease.lease_s * 1000))
        except (RedisError, OSError) as error:
            self._trouble.tell(error)
            return
        self._trouble.over()
        if renewal is None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(lease.renew_soon)  # its own renewal tells the loop that it is lost
            return
        metrics.STAND_IN_RENEWALS.labels(row.pool, row.engine_id).inc()
        lease.renewed_at = max(lease.renewed_at, began)
