"""Reads an engine's assigned stream and runs what is assigned, no deeper than the engine's slots."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.exceptions import RedisError

from sagellm_control.store.backoff import Backoff
from sagellm_control.store.connect import Store
from sagellm_control.store.inspect import read_output
from sagellm_control.store.steps.engines import is_groupless, restore_group
from sagellm_control.store.stream_answer import stream_entries
from sagellm_control.store.trouble import Trouble
from sagellm_control.wire.assignment import Assignment, CancelNotice, read_assigned
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.event import is_unbroken
from sagellm_control.wire.keys import WORKER_GROUP
from sagellm_control.wire.states import RESERVATIONS, Outcome, Stage

from ..adapters.base import EngineAdapter
from ..attempts.attempt import Attempt
from ..attempts.insistence import is_final
from ..attempts.outbox import Outbox
from ..attempts.reservation import hold
from ..observation.observation import EngineObservation
from ..pairs.paired_decode import PairedAdapter
from ..pairs.paired_prefill import PromptAttempt
from ..pairs.prompt import Prompts
from .attempt_metrics import AttemptMetrics
from .shared_slots import SharedSlots

log = logging.getLogger(__name__)

BLOCK_MS = 2000
"""A blocking read returns empty after this; only so that a dead connection is noticed."""
READ_COUNT = 64
RETRY_S, LONGEST_RETRY_S = 0.2, 1.0
ENDED_KEPT = 10_000
"""Attempts that this session remembers to have run."""
NEW, UNSETTLED = ">", "0"
"""Where a read starts: at what was never handed out, or at all that was and is not settled."""

Found = TypeVar("Found")


class AssignedReader:
    """Turns assignments into running attempts, and cancel notices into stopped ones."""

    def __init__(
        self,
        store: Store,
        row: EngineRow,
        adapter: EngineAdapter,
        outbox: Outbox,
        observation: EngineObservation | None = None,
        slots: SharedSlots | None = None,
    ) -> None:
        self._store = store
        self._row = row
        self._adapter = adapter
        self._outbox = outbox
        self._seen = observation or EngineObservation()
        self._slots = slots or SharedSlots(row.slots)
        self._stream = store.keys.pool(row.pool).assigned(row.engine_id)
        self._client: Any = store.blocking(BLOCK_MS / 1000)
        self._prompts = Prompts(store, row.pool)
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._held: deque[Attempt] = deque()
        self._ended_keys: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._running = 0
        self._draining = False
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._metrics = AttemptMetrics(row)
        self._trouble = Trouble(log, f"engine {row.engine_id}: cannot read requests")
        self.on_ended: Callable[[str], None] = _ignore
        """Called with the result of each attempt that has ended."""

    @property
    def attempts(self) -> list[Attempt]:
        """Everything that is held or running."""
        return list(self._attempts.values())

    def take_over(self, adapter: EngineAdapter, row: EngineRow) -> None:
        """The engine is this from now on; what runs goes on as it was."""
        self._adapter, self._row = adapter, row

    async def run(self) -> None:
        """Read and run until cancelled; attempts are cancelled with it."""
        async with asyncio.TaskGroup() as tasks:

            def start_held() -> None:
                self._start_held(tasks)

            self._slots.join(start_held)
            try:
                start, backoff = UNSETTLED, Backoff(longest_s=LONGEST_RETRY_S)
                trouble = Trouble(log, f"engine {self._row.engine_id}: cannot read assignments")
                while True:
                    try:
                        await self._read(start, tasks)
                        start = NEW
                        backoff.reset()
                        trouble.over()
                    except (RedisError, OSError) as error:
                        trouble.tell(error)
                        # The reply may have been lost after the server had handed out its entries.
                        start = UNSETTLED
                        if is_groupless(error):
                            await restore_group(self._store, self._stream)
                        await backoff.pause()
            finally:
                # What runs is cancelled now: nothing that is held takes its place.
                self._held.clear()
                self._slots.leave(start_held)
                await self._store.done_with(self._client)
                await self._prompts.close()

    def drain(self) -> None:
        """Give back what has not started, and start nothing more."""
        self._draining = True
        self._return_held()

    def leave_engine(self, silent_since: float) -> None:
        """The engine is gone: give back what has not started, and what it has not answered since then (monotonic)."""
        self._return_held()
        for attempt in self.attempts:
            if attempt.waits_since(silent_since):
                attempt.stop("gone")

    def _return_held(self) -> None:
        while self._held:
            (attempt := self._held.popleft()).give_back()
            self._forget(attempt)

    async def idle(self) -> None:
        """Wait until nothing is held or running."""
        await self._none_left.wait()

    def stop_all(self, why: str) -> None:
        """Stop everything; see ``Attempt.stop``."""
        for attempt in self.attempts:
            attempt.stop(why)

    async def _read(self, start: str, tasks: asyncio.TaskGroup) -> None:
        count = ("COUNT", READ_COUNT) if start == NEW else ()
        words = ("GROUP", WORKER_GROUP, self._row.worker, *count, "BLOCK", BLOCK_MS, "STREAMS", self._stream, start)
        # Not xreadgroup(): redis-py measures each answer for metrics of its own before it gives it.
        answer = await self._client.execute_command("XREADGROUP", *words)
        taken = False
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
                self._cancel(item)
                await self._settle(entry_id)
            elif not self._knows((item.request_id, item.attempt)):
                self._take(item, tasks)
                taken = True
        if taken:
            await _engine_calls_first()

    def _knows(self, key: tuple[str, int]) -> bool:
        # One whose end is on its way is still unsettled, and would be read, and run, again.
        return key in self._attempts or self._outbox.is_reporting(key)

    def _take(self, assignment: Assignment, tasks: asyncio.TaskGroup) -> None:
        adapter, kind = self._adapter, Attempt
        if self._row.is_paired and assignment.stage is Stage.PREFILL:
            kind = PromptAttempt
        elif self._row.is_paired:
            adapter = PairedAdapter(adapter, self._prompts, assignment)
        attempt = kind(assignment, adapter, self._outbox, self._row.engine_id, self._row.kind, self._seen)
        attempt.watch.prefilled_elsewhere = adapter is not self._adapter
        self._attempts[attempt.key] = attempt
        self._none_left.clear()
        if self._draining or attempt.key in self._ended_keys:
            # What has been run is not run again under the same number. Its end may still be on its way (then nothing
            # is given back), or a failover has lost it.
            attempt.give_back()
            self._forget(attempt)
        else:
            self._held.append(attempt)
            self._start_held(tasks)

    def _start_held(self, tasks: asyncio.TaskGroup) -> None:
        while self._held and not self._draining and self._running < self._row.slots and self._slots.take():
            self._start(self._held.popleft(), tasks)

    def _start(self, attempt: Attempt, tasks: asyncio.TaskGroup) -> None:
        self._running += 1
        self._metrics.running.set(self._running)
        task = tasks.create_task(self._run(attempt), name=f"run {attempt.assignment.request_id}")
        # A callback, as a task that is cancelled before its first step never enters its own code.
        task.add_done_callback(lambda _task: self._ended(attempt))
        attempt.start(task)

    async def _run(self, attempt: Attempt) -> None:
        assignment = attempt.assignment
        # Not awaited: the engine is called while the claim is under way, and stopped if it is refused.
        self._outbox.claim(attempt)
        try:
            body = assignment.body
            if body is None:
                key = self._store.keys.pool(self._row.pool).body(assignment.request_id)
                body = await self._insist(lambda: self._store.commands.get(key))
            if body is None:
                attempt.end(Outcome.FAILED, 500, "body_lost", "The request's body is gone.")
            elif isinstance(attempt, PromptAttempt):
                await attempt.read(body, self._store, self._row.pool)
            elif assignment.kind in RESERVATIONS:
                await hold(attempt, self._store, body)
            elif assignment.after == (0, 0):
                await attempt.run(body)
            else:
                pool, request_id = self._row.pool, assignment.request_id
                given = await self._insist(lambda: read_output(self._store, pool, request_id))
                if is_unbroken(given):
                    await attempt.run(body, [event.payload for event in given])
                else:
                    attempt.end(Outcome.FAILED, 503, "request_lost", "Redis has lost a part of the answer.")
        except Exception:
            # A bug of ours must not take the other attempts down with it.
            log.exception("request %s: attempt %d failed unexpectedly", *attempt.key)
            attempt.end(Outcome.FAILED, 500, "internal_error", "The worker failed unexpectedly.")

    def _ended(self, attempt: Attempt) -> None:
        attempt.report_stop()
        self._ended_keys[attempt.key] = None
        if len(self._ended_keys) > ENDED_KEPT:
            self._ended_keys.popitem(last=False)
        self._running -= 1
        self._forget(attempt)
        self._metrics.running.set(self._running)
        self._metrics.ended(attempt)
        self.on_ended(attempt.result)
        self._slots.give_back()

    async def _insist(self, read: Callable[[], Awaitable[Found]]) -> Found:
        while True:
            try:
                found = await read()
            except (RedisError, OSError) as error:
                if is_final(error):
                    raise
                self._trouble.tell(error)
                await asyncio.sleep(RETRY_S)
            else:
                self._trouble.over()
                return found

    def _cancel(self, notice: CancelNotice) -> None:
        attempt = self._attempts.get((notice.request_id, notice.attempt))
        if attempt is None:
            return
        attempt.stop(notice.outcome)
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


async def _engine_calls_first() -> None:
    """Let the calls to engines that were just begun be written before the next read: first tokens wait for them.

    An attempt begins in the next turn of the loop, and goes in one step as far as that.
    """
    await asyncio.sleep(0)


def _ignore(result: str) -> None:
    """Nobody wants to know how attempts end."""
