"""Reads an engine's assigned stream and runs what is assigned, no deeper than the engine's slots."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from redis.exceptions import RedisError

from sagellm_control.store.connect import Store
from sagellm_control.store.stream_answer import stream_entries
from sagellm_control.wire.assignment import Assignment, CancelNotice, read_assigned
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.keys import WORKER_GROUP
from sagellm_control.wire.states import Outcome

from . import metrics
from .adapters.base import EngineAdapter
from .attempt import Attempt
from .observation import EngineObservation
from .outbox import Outbox

log = logging.getLogger(__name__)

BLOCK_MS = 5000
"""A blocking read returns empty after this; only so that a dead connection is noticed."""
READ_COUNT = 64
RETRY_S = 0.2
NEW, UNSETTLED = ">", "0"
"""Where a read starts: at what was never handed out, or at all that was and is not settled."""


class AssignedReader:
    """Turns assignments into running attempts, and cancel notices into stopped ones."""

    def __init__(
        self,
        store: Store,
        row: EngineRow,
        adapter: EngineAdapter,
        outbox: Outbox,
        observation: EngineObservation | None = None,
    ) -> None:
        self._store = store
        self._row = row
        self._adapter = adapter
        self._outbox = outbox
        self._seen = observation or EngineObservation()
        self._stream = store.keys.pool(row.pool).assigned(row.engine_id)
        self._client: Any = store.blocking()
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._held: deque[Attempt] = deque()
        self._running = 0
        self._draining = False
        self._none_left = asyncio.Event()
        self._none_left.set()
        labels = (row.pool, row.engine_id)
        self._running_gauge = metrics.RUNNING.labels(*labels)
        self._ttft = metrics.ENGINE_TTFT.labels(*labels)
        self._ttft_error = metrics.TTFT_ERROR.labels(*labels)
        self._duration = metrics.ENGINE_DURATION.labels(*labels)
        self.on_engine_trouble = asyncio.Event()
        """Set when an attempt could not reach the engine."""

    @property
    def attempts(self) -> list[Attempt]:
        """Everything that is held or running."""
        return list(self._attempts.values())

    async def run(self) -> None:
        """Read and run until cancelled; attempts are cancelled with it."""
        async with asyncio.TaskGroup() as tasks:
            try:
                start = UNSETTLED
                while True:
                    try:
                        await self._read(start, tasks)
                        start = NEW
                    except (RedisError, OSError) as error:
                        log.warning("engine %s: cannot read assignments: %s", self._row.engine_id, error)
                        # The reply may have been lost after the server had handed out its entries.
                        start = UNSETTLED
                        await asyncio.sleep(RETRY_S)
            finally:
                await self._store.done_with(self._client)

    def drain(self) -> None:
        """Give back what has not started, and start nothing more."""
        self._draining = True
        while self._held:
            attempt = self._held.popleft()
            attempt.give_back()
            self._forget(attempt)

    async def idle(self) -> None:
        """Wait until nothing is held or running."""
        await self._none_left.wait()

    def stop_all(self, why: str) -> None:
        """Stop everything; see ``Attempt.stop``."""
        for attempt in self.attempts:
            attempt.stop(why)

    async def _read(self, start: str, tasks: asyncio.TaskGroup) -> None:
        answer = await self._client.xreadgroup(
            WORKER_GROUP,
            self._row.worker,
            {self._stream: start},
            count=READ_COUNT if start == NEW else None,
            block=BLOCK_MS,
        )
        for _, entry_id, fields in stream_entries(answer):
            if fields is None:
                continue  # settled while it was pending
            try:
                item = read_assigned(entry_id, fields)
            except (KeyError, ValueError) as error:
                log.error("engine %s: entry %s cannot be read: %r", self._row.engine_id, entry_id, error)
                await self._settle(entry_id)
                continue
            if isinstance(item, CancelNotice):
                self._cancel(item, fields[b"cancel"].decode())
                await self._settle(entry_id)
            elif (item.request_id, item.attempt) not in self._attempts:
                self._take(item, tasks)

    def _take(self, assignment: Assignment, tasks: asyncio.TaskGroup) -> None:
        attempt = Attempt(assignment, self._adapter, self._outbox, self._row.engine_id, self._seen)
        self._attempts[attempt.key] = attempt
        self._none_left.clear()
        if self._draining:
            attempt.give_back()
            self._forget(attempt)
        elif self._running < self._row.slots:
            self._start(attempt, tasks)
        else:
            self._held.append(attempt)

    def _start(self, attempt: Attempt, tasks: asyncio.TaskGroup) -> None:
        self._running += 1
        self._running_gauge.set(self._running)
        task = tasks.create_task(self._run(attempt), name=f"run {attempt.assignment.request_id}")
        # A callback, as a task that is cancelled before its first step never enters its own code.
        task.add_done_callback(lambda _task: self._ended(attempt, tasks))
        attempt.start(task)

    async def _run(self, attempt: Attempt) -> None:
        assignment = attempt.assignment
        # Not awaited: the engine is called while the claim is under way, and stopped if it is refused.
        self._outbox.claim(attempt)
        try:
            body = assignment.body
            if body is None:
                body = await self._fetch_body(assignment)
            if body is None:
                attempt.end(Outcome.FAILED, 500, "body_lost", "The request's body is gone.")
            else:
                await attempt.run(body)
        except Exception:
            # A bug of ours must not take the other attempts down with it.
            log.exception("request %s: attempt %d failed unexpectedly", *attempt.key)
            attempt.end(Outcome.FAILED, 500, "internal_error", "The worker failed unexpectedly.")

    def _ended(self, attempt: Attempt, tasks: asyncio.TaskGroup) -> None:
        attempt.report_stop()
        self._running -= 1
        self._forget(attempt)
        self._observe(attempt)
        if self._held and not self._draining:
            self._start(self._held.popleft(), tasks)

    async def _fetch_body(self, assignment: Assignment) -> bytes | None:
        key = self._store.keys.pool(self._row.pool).body(assignment.request_id)
        while True:
            try:
                return await self._store.commands.get(key)
            except (RedisError, OSError) as error:
                log.warning("request %s: cannot read its body: %s", assignment.request_id, error)
                await asyncio.sleep(RETRY_S)

    def _cancel(self, notice: CancelNotice, outcome: str) -> None:
        attempt = self._attempts.get((notice.request_id, notice.attempt))
        if attempt is None:
            return
        attempt.stop(outcome)
        if attempt in self._held:
            self._held.remove(attempt)
            attempt.report_stop()
            self._forget(attempt)

    async def _settle(self, entry_id: bytes) -> None:
        pipe = self._store.commands.pipeline(transaction=False)
        pipe.xack(self._stream, WORKER_GROUP, entry_id)
        pipe.xdel(self._stream, entry_id)
        await pipe.execute()

    def _forget(self, attempt: Attempt) -> None:
        self._attempts.pop(attempt.key, None)
        if not self._attempts:
            self._none_left.set()

    def _observe(self, attempt: Attempt) -> None:
        self._running_gauge.set(self._running)
        self._duration.observe(attempt.duration_s)
        if attempt.first_byte_s is not None:
            self._ttft.observe(attempt.first_byte_s)
        a = attempt.assignment
        if attempt.first_byte_s is not None and attempt.predicted_first_s is not None:
            self._ttft_error.observe(abs(attempt.first_byte_s - attempt.predicted_first_s))
        metrics.QUEUE_DURATION.labels(self._row.pool, a.priority.label).observe(
            max(0.0, (a.assigned_ms - a.arrived_ms) / 1000)
        )
        metrics.ATTEMPTS.labels(self._row.pool, self._row.engine_id, attempt.result).inc()
        if attempt.result in ("engine_unreachable", "engine_broken"):
            self.on_engine_trouble.set()
