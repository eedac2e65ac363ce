"""Everything a worker says about the attempts on one engine: claims, output, endings, returns.

What is ready goes out in one batch; while a write is under way, the next batch collects. So the first token leaves at
once, and under load many tokens share a round trip.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile
from typing import TypedDict, TypeVar

from sagellm_control.store.connect import Store
from sagellm_control.store.steps.advance import Advance, advance
from sagellm_control.store.steps.append import Output, append
from sagellm_control.store.steps.claim import claim
from sagellm_control.store.steps.finish import Finish, finish
from sagellm_control.store.steps.requeue import BUSY_PATIENCE_S, RETRY_BUDGET, Cause, Requeue, RetryBudget, requeue
from sagellm_control.wire.event import Ending

from .. import metrics
from .attempt import Attempt
from .engine_errors import UNREACHABLE
from .insistence import write_until_taken

CLAIM_AFTER_S = 0.01
"""Nothing waits for a claim: whether the attempt is still ours, every other report finds out as well."""
OUTPUTS_A_TURN = 3
"""Calls with output before the others have theirs: meanwhile more end, and share a call."""
MOST_IN_A_CALL = 128
"""Requests in one script call; keeps each call on the server under a millisecond."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Limits(TypedDict):
    max_failures: int
    budget: RetryBudget
    busy_patience_s: float


class Outbox:
    """Writes for one engine, under one worker session."""

    def __init__(
        self,
        store: Store,
        pool: str,
        engine: str,
        worker: str,
        *,
        max_attempts: int,
        budget: RetryBudget = RETRY_BUDGET,
        busy_patience_s: float = BUSY_PATIENCE_S,
    ) -> None:
        self._store = store
        self._where = (pool, engine, worker)
        self._limits: _Limits = {
            "max_failures": max_attempts,
            "budget": budget,
            "busy_patience_s": busy_patience_s,
        }
        self.pause: Callable[[float], Awaitable[None]] = _known
        """Leaves the engine alone for so long (s); returns when nobody gives it anything more."""
        self.confirm: Callable[[], Awaitable[None]] = _known
        """Finds out whether the engine is gone; returns when nobody gives it anything more if it is."""
        self._claims: list[Attempt] = []
        self._claims_due: asyncio.TimerHandle | None = None
        self._outputs: dict[Attempt, None] = {}
        self._finishes: list[tuple[Attempt, Ending]] = []
        self._requeues: list[tuple[Attempt, Requeue]] = []
        self._withheld: list[tuple[Attempt, Requeue]] = []
        """They go back when schedulers know how the engine is: else they would come to it again at once."""
        self._advances: list[tuple[Attempt, Advance]] = []
        self._reporting: set[tuple[str, int]] = set()
        self._ready = asyncio.Event()
        self._claims_ready = asyncio.Event()
        self._withheld_ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._events = metrics.EVENTS.labels(pool, engine)
        self._bytes = metrics.EVENT_BYTES.labels(pool, engine)

    def claim(self, attempt: Attempt) -> None:
        """The attempt runs from now on."""
        self._claims.append(attempt)
        if self._claims_due is None:
            self._claims_due = asyncio.get_running_loop().call_later(CLAIM_AFTER_S, self._wake_claims)

    def output(self, attempt: Attempt) -> None:
        """The attempt has pending output."""
        self._outputs[attempt] = None
        self._wake()

    def finish(self, attempt: Attempt, ending: Ending) -> None:
        """The request has ended; output still pending goes with it."""
        self._outputs.pop(attempt, None)
        self._reporting.add(attempt.key)
        self._finishes.append((attempt, ending))
        self._wake()

    def requeue(self, attempt: Attempt, cause: Cause, last_error: Ending | None = None, reason: str = "") -> None:
        """The attempt goes back. Output that nobody has seen yet is dropped with it."""
        if attempt.sequence == 0:
            self._outputs.pop(attempt, None)
            attempt.pending.clear()
        self._reporting.add(attempt.key)
        request_id, number = attempt.key
        item = (attempt, Requeue(request_id, number, cause, last_error, reason))
        if attempt.retry_after_s is not None or attempt.result in UNREACHABLE:
            self._withheld.append(item)
            self._withheld_ready.set()
            self._idle.clear()
        else:
            self._requeues.append(item)
            self._wake()

    def advance(self, attempt: Attempt, transfer: bytes) -> None:
        """The attempt has read the prompt; another engine answers."""
        self._reporting.add(attempt.key)
        self._advances.append((attempt, Advance(*attempt.key, transfer)))
        self._wake()

    def is_reporting(self, key: tuple[str, int]) -> bool:
        """Whether an attempt has ended here, and the server has not confirmed it yet."""
        return key in self._reporting

    @property
    def unwritten(self) -> int:
        """How many attempts have ended here without the server's having confirmed it."""
        return len(self._reporting)

    async def written(self) -> None:
        """Wait until everything has been written."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._run_claims(), name="claims")
            loops.create_task(self._run_reports(), name="reports")
            loops.create_task(self._run_withheld(), name="withheld")

    async def _run_claims(self) -> None:
        # A loop of its own: first tokens must not wait for the reply to a claim.
        while True:
            await self._claims_ready.wait()
            self._claims_ready.clear()
            await self._write_claims()

    async def _run_reports(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            # By turns: while many stream there is always new output, and the others would wait for the end of it.
            while self._outputs or self._finishes or self._advances or self._requeues:
                for _ in range(OUTPUTS_A_TURN):
                    await self._write_outputs()
                await self._write_finishes()
                await self._write_advances()
                await self._write_requeues()
            if not self._ready.is_set() and not self._withheld:
                self._idle.set()

    async def _run_withheld(self) -> None:
        while True:
            await self._withheld_ready.wait()
            self._withheld_ready.clear()
            while batch := self._withheld[:]:
                pauses = [attempt.retry_after_s for attempt, _ in batch if attempt.retry_after_s is not None]
                if pauses:
                    await self.pause(max(pauses))
                if len(pauses) < len(batch):
                    await self.confirm()
                del self._withheld[: len(batch)]
                self._requeues.extend(batch)
                self._wake()

    def _wake(self) -> None:
        self._ready.set()
        self._idle.clear()

    def _wake_claims(self) -> None:
        self._claims_due = None
        # What has ended by now needs none; where all has, nobody is woken.
        self._claims = [attempt for attempt in self._claims if not attempt.reported]
        if self._claims:
            self._claims_ready.set()

    async def _write_claims(self) -> None:
        while claims := self._claims[:MOST_IN_A_CALL]:
            del self._claims[: len(claims)]
            running = [attempt for attempt in claims if not attempt.reported]
            if not running:
                continue
            items = [(*attempt.key, attempt.ran_ms) for attempt in running]
            states = await self._write(items, lambda items: claim(self._store, *self._where, items))
            for attempt, state in zip(running, states, strict=True):
                if state != "running":
                    attempt.stop(state or "lost")

    async def _write_outputs(self) -> None:
        if attempts := list(self._outputs)[:MOST_IN_A_CALL]:
            outputs: list[Output] = []
            for attempt in attempts:
                del self._outputs[attempt]
                attempt.sequence += 1
                request_id, number = attempt.key
                outputs.append(Output(request_id, number, attempt.sequence, _take_pending(attempt)))
            kept = await self._write(outputs, lambda outputs: append(self._store, *self._where, outputs))
            self._events.inc(len(outputs))
            self._bytes.inc(sum(len(output.payload) for output in outputs))
            for attempt, ok in zip(attempts, kept, strict=True):
                if ok:
                    attempt.written.set()
                else:
                    attempt.stop("lost")

    async def _write_finishes(self) -> None:
        if batch := self._finishes[:MOST_IN_A_CALL]:
            del self._finishes[: len(batch)]
            finishes: list[Finish] = []
            for attempt, ending in batch:
                attempt.sequence += 1
                request_id, number = attempt.key
                if attempt.pending:
                    ending = ending.after(_take_pending(attempt))
                finishes.append(
                    Finish(
                        request_id,
                        number,
                        attempt.sequence,
                        ending,
                        output_tokens=attempt.watch.length.output_tokens,
                        first_ms=None if attempt.watch.first_byte_s is None else attempt.watch.first_byte_s * 1000,
                        held_ms=attempt.held_ms,
                    )
                )
            await self._write(finishes, lambda finishes: finish(self._store, *self._where, finishes))
            self._reporting.difference_update(attempt.key for attempt, _ in batch)
            self._events.inc(len(finishes))

    async def _write_advances(self) -> None:
        if batch := self._advances[:MOST_IN_A_CALL]:
            del self._advances[: len(batch)]
            items = [item for _, item in batch]
            await self._write(items, lambda items: advance(self._store, *self._where, items))
            self._reporting.difference_update(attempt.key for attempt, _ in batch)

    async def _write_requeues(self) -> None:
        # Behind what the attempt has said: once it is somebody else's, that would be refused.
        said = takewhile(lambda item: item[0] not in self._outputs, self._requeues[:MOST_IN_A_CALL])
        if batch := list(said):
            del self._requeues[: len(batch)]
            items = [item for _, item in batch]
            await self._write(items, lambda items: requeue(self._store, *self._where, items, **self._limits))
            self._reporting.difference_update(attempt.key for attempt, _ in batch)

    async def _write(
        self, items: Sequence[Item], write: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]]
    ) -> list[Answer | None]:
        return await write_until_taken(f"engine {self._where[1]}", items, write)


async def _known(*_: object) -> None:
    """Schedulers know already."""


def _take_pending(attempt: Attempt) -> bytes:
    payload = b"".join(attempt.pending)
    attempt.pending.clear()
    attempt.pending_bytes = 0
    return payload
