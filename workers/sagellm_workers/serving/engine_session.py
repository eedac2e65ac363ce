"""One engine in one pool, from its registration to its retirement."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from redis.exceptions import RedisError

from sagellm_control.stopping import is_set_within
from sagellm_control.store.backoff import Backoff
from sagellm_control.store.connect import Store
from sagellm_control.store.steps.engines import register_engine, retire_engine
from sagellm_control.store.steps.pools import announce, describe, withdraw
from sagellm_control.store.steps.requeue import RetryBudget
from sagellm_control.store.trouble import Trouble
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.states import EngineState

from .. import metrics
from ..adapters.base import EngineAdapter
from ..attempts.outbox import Outbox
from ..health.breaker import BreakerSettings
from ..health.health import NOT_ANSWERING, HealthSettings, HealthWatch
from ..health.neighbours import others_serve
from ..lease.lease import Lease, LeaseLost
from ..lease.stand_in import StandIn
from ..observation.observation import EngineObservation
from ..observation.pace_keeper import PaceKeeper
from ..settings import WorkerSettings
from .assigned_reader import AssignedReader
from .shared_slots import SharedSlots

log = logging.getLogger(__name__)

RETRY_S = 0.5
DRAIN_GRACE_S = 5.0
"""Behind ``drain_s``, for giving back what still runs, writing how the rest ended, and retiring the engine. Redis may
be away for hours."""
ANNOUNCE_EVERY_S = 2.0
"""Nobody forgets a pool that has an engine; this is for a server that lost what it was told."""
DESCRIBE_EVERY = 15
"""Announcements: as long as models are shown as an engine had them that is gone."""


class EngineSession:
    """Serves one engine: registers it, keeps its lease, runs what is assigned to it, drains at the end.

    Args:
        slots: those of the engine, where it is served in several pools.
        returned: see ``HealthWatch``.
    """

    def __init__(
        self,
        store: Store,
        adapter: EngineAdapter,
        row: EngineRow,
        settings: WorkerSettings,
        *,
        slots: SharedSlots | None = None,
        returned: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._adapter = adapter
        self._row = row
        self._settings = settings
        self._slots = slots
        self._returned = returned
        self._parts: tuple[Lease, AssignedReader, HealthWatch] | None = None
        """While it is registered."""
        self._models_changed = asyncio.Event()
        self.farewell = ""
        """Why it ends; empty: its worker stops."""

    def take_over(self, adapter: EngineAdapter, row: EngineRow) -> None:
        """The engine has become another, in the same pool; what runs on it is not touched."""
        if replace(row, cards=self._row.cards) != self._row:
            log.info(
                "engine %s has changed: it serves %s with %d slots", row.engine_id, ", ".join(row.models), row.slots
            )
        self._adapter, self._row = adapter, row
        if self._parts is not None:
            lease, reader, health = self._parts
            lease.take_over(row)
            reader.take_over(adapter, lease.row)
            health.take_over(adapter, row)
            self._models_changed.set()

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; a lost lease is taken again under a new session."""
        backoff, trouble = Backoff(longest_s=RETRY_S), Trouble(log, f"engine {self._row.engine_id} is not served")
        metrics.begin(self._row.pool, self._row.engine_id)
        while not stop.is_set():
            row = replace(self._row, worker=f"{self._row.worker}-{secrets.token_hex(3)}")
            try:
                registered = await self._register(row, stop)
                trouble.over()
                if registered is not None:
                    await self._run(registered, stop)
            except* LeaseLost:
                metrics.LEASES_LOST.labels(row.pool, row.engine_id).inc()
                log.warning("engine %s: the lease was lost; registering again", row.engine_id)
            except* (RedisError, OSError) as errors:
                error: Exception = errors
                while isinstance(error, ExceptionGroup):
                    error = error.exceptions[0]
                trouble.tell(error)
                await backoff.pause()
        metrics.forget(self._row.pool, self._row.engine_id)

    async def _announce(self, lease: Lease, announced: EngineRow) -> None:
        # Apart from the lease: in a cluster it is another server that keeps this, which may be away.
        changed, trouble = False, Trouble(log, f"pool {announced.pool} cannot be announced")
        for looks in itertools.count():
            if changed:
                # A name that no row has is one to be forgotten.
                await lease.reported()
            row = lease.row
            with trouble.told():
                await announce(self._store, row)
                gone = set(announced.models) - set(row.models)
                if gone or row.cards != announced.cards or looks % DESCRIBE_EVERY == 0:
                    await describe(self._store, row, gone)
                if gone:
                    await withdraw(self._store, row.pool, gone)
                announced = row
            changed = await is_set_within(self._models_changed, ANNOUNCE_EVERY_S)
            self._models_changed.clear()

    async def _register(self, row: EngineRow, stop: asyncio.Event) -> EngineRow | None:
        """The row as it was registered; None: it is another worker's until the end."""
        told, began = False, time.monotonic()
        if await self._adapter.healthy() or self._adapter.heard_at >= began:
            row = replace(row, state=EngineState.READY)
        else:
            row = replace(row, state=EngineState.ERROR, reason=NOT_ANSWERING)
        while not stop.is_set():
            held = await register_engine(self._store, row, lease_ms=int(self._settings.lease_s * 1000))
            if held is None:
                log.info("engine %s serves %s with %d slots", row.engine_id, row.pool, row.slots)
                return row
            if not told:
                log.warning("engine %s is held by worker %s; standing by", row.engine_id, held.worker)
                told = True
            # When it is given away it may be gone: the first probe tells.
            row = replace(row, state=EngineState.ERROR, reason=NOT_ANSWERING)
            await asyncio.sleep(RETRY_S)
        return None

    async def _run(self, row: EngineRow, stop: asyncio.Event) -> None:
        s = self._settings
        budget = RetryBudget(s.retry_share, s.retry_floor)
        outbox = Outbox(
            self._store,
            row.pool,
            row.engine_id,
            row.worker,
            max_attempts=s.max_attempts,
            budget=budget,
            busy_patience_s=s.busy_patience_s,
        )
        seen = EngineObservation(row.speed)
        reader = AssignedReader(self._store, row, self._adapter, outbox, seen, self._slots)
        pace = PaceKeeper(self._store, row, seen)
        lease = Lease(self._store, row, lease_s=s.lease_s, attempts=lambda: reader.attempts, pace=pace)
        health = HealthWatch(
            self._adapter,
            row,
            lease,
            _health_settings(s),
            others_serve=lambda: others_serve(self._store, lease.row),
            returned=self._returned,
        )
        reader.on_ended, health.on_gone = health.attempt_ended, reader.leave_engine
        outbox.pause, outbox.confirm = health.pause, health.confirm
        ready = metrics.ENGINE_READY.labels(row.pool, row.engine_id)
        ready.set_function(lambda: lease.ready)
        self._parts = (lease, reader, health)
        self.take_over(self._adapter, self._row)  # it may have changed while it was registered
        try:
            async with StandIn(self._store, lease, patience_s=s.stall_s), asyncio.TaskGroup() as tasks:
                loops = [
                    tasks.create_task(outbox.run(), name=f"outbox {row.engine_id}"),
                    tasks.create_task(reader.run(), name=f"reader {row.engine_id}"),
                    tasks.create_task(lease.run(), name=f"lease {row.engine_id}"),
                    tasks.create_task(health.run(), name=f"health {row.engine_id}"),
                    tasks.create_task(self._announce(lease, row), name=f"announce {row.engine_id}"),
                ]
                await stop.wait()
                health.stop()
                ends_at = asyncio.get_running_loop().time() + s.drain_s + DRAIN_GRACE_S
                await self._drain(reader, lease, outbox, ends_at)
                for task in loops:
                    task.cancel()
        finally:
            self._parts = None
            ready.set_function(lambda: 0)
        await self._retire(row, ends_at)

    async def _retire(self, row: EngineRow, ends_at: float) -> None:
        why = self.farewell or "its worker was stopped"
        try:
            async with asyncio.timeout_at(ends_at):
                await retire_engine(self._store, row.pool, row.engine_id, row.worker, EngineState.STOPPED, why)
        except (RedisError, OSError) as error:
            log.warning("engine %s: ends without having said so: %r; its lease lapses", row.engine_id, error)
        else:
            log.info("engine %s: drained", row.engine_id)

    async def _drain(self, reader: AssignedReader, lease: Lease, outbox: Outbox, ends_at: float) -> None:
        lease.report(EngineState.DRAINING, self.farewell or "its worker is stopping")
        reader.drain()
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await reader.idle()
        except TimeoutError:
            left = reader.attempts
            log.warning("engine %s: %d answers outlast the drain", self._row.engine_id, len(left))
            reader.stop_all("returned")
        try:
            async with asyncio.timeout_at(ends_at):
                await reader.idle()
                await outbox.written()
        except TimeoutError:
            # Keepers give it to others when the lease has lapsed.
            log.error(
                "engine %s: how %d of its requests ended could not be written; others go on with them",
                self._row.engine_id,
                len(reader.attempts) + outbox.unwritten,
            )


def _health_settings(s: WorkerSettings) -> HealthSettings:
    breaker = BreakerSettings(
        window_s=s.breaker_window_s,
        min_requests=s.breaker_min_requests,
        error_rate=s.breaker_error_rate,
        open_s=s.breaker_open_s,
    )
    return HealthSettings(
        interval_s=s.health_interval_s,
        gone_after_s=s.gone_after_s,
        slow_start_s=s.slow_start_s,
        longest_pause_s=s.longest_pause_s,
        breaker=breaker,
    )
