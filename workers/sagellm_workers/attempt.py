"""The unit of work: one attempt of one request. It runs the engine and knows how to finish or give back itself."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.assignment import Assignment
from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import Outcome, RequestKind

from .adapters.base import EngineAdapter, EngineBroken, EngineCall, EngineError, EngineReply, EngineTimeout
from .answer_length import AnswerLength
from .observation import EngineObservation

MOST_PENDING_BYTES = 1 << 20
"""Output that may wait for Redis; beyond it the engine is read no further until some has been written."""

MOST_ERROR_BYTES = 1 << 20
"""Of an engine's error body; more is of no use to anybody."""

BUSY_STATUSES = frozenset({408, 429})
"""Client-error statuses with which an engine says "not now": another engine may say yes."""


class Reporting(Protocol):
    """Where an attempt reports to; see ``Outbox``."""

    def claim(self, attempt: Attempt) -> None: ...
    def output(self, attempt: Attempt) -> None: ...
    def finish(self, attempt: Attempt, ending: Ending) -> None: ...
    def requeue(self, attempt: Attempt, cause: Cause, last_error: Ending | None = None) -> None: ...


class Attempt:
    """One attempt: from the assignment to its report."""

    def __init__(
        self,
        assignment: Assignment,
        adapter: EngineAdapter,
        outbox: Reporting,
        engine_id: str,
        observation: EngineObservation | None = None,
    ) -> None:
        self.assignment = assignment
        self.adapter = adapter
        self.outbox = outbox
        self.engine_id = engine_id
        self.seen = observation or EngineObservation()
        self.sequence = 0
        """Number of the last event handed to Redis."""
        self.pending: list[bytes] = []
        self.pending_bytes = 0
        self.written = asyncio.Event()
        """Set whenever pending output has been written."""
        self.length = AnswerLength()
        self.predicted_first_s: float | None = None
        """When its first token was expected, from the call of the engine."""
        self.first_byte_s: float | None = None
        self.duration_s = 0.0
        self.result = "lost"
        """How it ended, for the metrics."""
        self._reported = False
        self._task: asyncio.Task[None] | None = None
        self._stop_as: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Request id and attempt number."""
        return (self.assignment.request_id, self.assignment.attempt)

    def start(self, task: asyncio.Task[None]) -> None:
        """Remember the task that runs it, so that it can be stopped."""
        self._task = task
        if self._stop_as is not None:
            task.cancel()

    def stop(self, why: str) -> None:
        """Stop it: ``cancelled`` or ``expired`` (it is finished so), ``returned`` (it is given back), or ``lost``
        (it is somebody else's now: nothing is reported)."""
        if self._stop_as is None:
            self._stop_as = why
            if self._task is not None:
                self._task.cancel()

    async def run(self, body: bytes) -> None:
        """Run the engine and report how it ended; after a ``stop``, ``report_stop`` reports."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds_left()):
                await self._run(body, began)
        except TimeoutError:
            self.end(
                Outcome.EXPIRED,
                504,
                "deadline_exceeded",
                "The request's timeout passed while the engine ran.",
            )
        finally:
            self.duration_s = time.monotonic() - began

    def report_stop(self) -> None:
        """Report what ``stop`` asked for, unless the attempt has reported its end by itself."""
        if self._reported:
            return
        match self._stop_as:
            case "cancelled":
                self.end(Outcome.CANCELLED, 499, "cancelled", "The request was cancelled.")
            case "expired":
                self.end(Outcome.EXPIRED, 504, "deadline_exceeded", "The request's timeout passed.")
            case "returned":
                self.give_back()
            case _:
                self.pending.clear()

    def give_back(self) -> None:
        """Back to the waiting set, as if it had not been assigned."""
        self._reported = True
        self.result = "returned"
        self.outbox.requeue(self, Cause.RETURNED)

    async def _run(self, body: bytes, began: float) -> None:
        a = self.assignment
        call = EngineCall(
            request_id=a.request_id,
            trace_id=a.trace_id or None,
            traceparent=a.traceparent or None,
            kind=a.kind,
            stream=a.stream,
            body=body,
            priority=int(a.priority),
        )
        self.predicted_first_s = self.seen.predicted_first_s(a.uncached_tokens)
        self.seen.started(a.uncached_tokens)
        alone = self.seen.running == 1
        try:
            async with self.adapter.run(call) as reply:
                await self._pass_on(reply, began)
            if self.first_byte_s is not None and reply.is_event_stream:
                uncached = self.length.uncached_tokens
                tokens = a.uncached_tokens if uncached is None else uncached
                self.seen.prefilled(tokens, self.first_byte_s, alone=alone and self.seen.running == 1)
        except EngineError as error:
            code = "engine_timeout" if isinstance(error, EngineTimeout) else "engine_unreachable"
            if isinstance(error, EngineBroken):
                code = "engine_broken"
            status = 504 if isinstance(error, EngineTimeout) else 502
            self._fail(Ending(Outcome.FAILED, status, code=code, message=str(error), engine=self.engine_id))
        finally:
            self.seen.ended()

    async def _pass_on(self, reply: EngineReply, began: float) -> None:
        if reply.status >= 400:
            await self._pass_on_error(reply)
            return
        pieces: list[bytes] = []
        last = began
        async for chunk in reply.chunks:
            now = time.monotonic()
            if reply.is_event_stream:
                self._observe(chunk, now - began, now - last)
                last = now
            elif self.first_byte_s is None:
                self.first_byte_s = now - began
            if reply.is_event_stream:
                self.pending.append(chunk)
                self.pending_bytes += len(chunk)
                self.outbox.output(self)
                while self.pending_bytes > MOST_PENDING_BYTES:
                    self.written.clear()
                    await self.written.wait()
            else:
                pieces.append(chunk)
        body = b"".join(pieces)
        if body:
            self.length.body(body)
            self._observe_whole(time.monotonic() - began)
        ending = Ending(
            Outcome.COMPLETED,
            reply.status,
            content_type=reply.content_type or "application/json",
            engine=self.engine_id,
            body=body,
        )
        self._finish(ending, "completed")

    def _observe(self, chunk: bytes, since_start_s: float, since_last_s: float) -> None:
        tokens = self.length.event(chunk)
        if self.first_byte_s is None:
            self.first_byte_s = since_start_s
            self.seen.first(since_start_s)
        elif tokens:
            self.seen.tokens(tokens, since_last_s)

    def _observe_whole(self, took_s: float) -> None:
        # Nobody saw the tokens one by one: what is left beside the expected prefill is theirs.
        tokens = self.length.output_tokens
        if tokens and self.assignment.kind is not RequestKind.EMBEDDING:
            self.seen.tokens(tokens, max(0.0, took_s - (self.predicted_first_s or 0.0)))

    async def _pass_on_error(self, reply: EngineReply) -> None:
        body = bytearray()
        async for chunk in reply.chunks:
            body += chunk
            if len(body) > MOST_ERROR_BYTES:
                break
        ending = Ending(
            Outcome.REFUSED,
            reply.status,
            content_type=reply.content_type or "application/json",
            engine=self.engine_id,
            retry_after_s=reply.retry_after_s,
            body=bytes(body[:MOST_ERROR_BYTES]),
        )
        if reply.status < 500 and reply.status not in BUSY_STATUSES:
            self._finish(ending, "refused")
        else:
            self._fail(
                Ending(
                    Outcome.FAILED,
                    reply.status,
                    content_type=ending.content_type,
                    code="engine_error",
                    message=f"engine {self.engine_id} answered {reply.status}",
                    engine=self.engine_id,
                    retry_after_s=reply.retry_after_s,
                    body=ending.body,
                )
            )

    def _fail(self, ending: Ending) -> None:
        self._reported = True
        self.result = ending.code
        self.outbox.requeue(self, Cause.FAILED, ending)

    def end(self, outcome: Outcome, status: int, code: str, message: str) -> None:
        """Finish the request without an answer of the engine's."""
        self._finish(Ending(outcome, status, code=code, message=message, engine=self.engine_id), str(outcome))

    def _finish(self, ending: Ending, result: str) -> None:
        self._reported = True
        self.result = result
        self.outbox.finish(self, ending)

    def _seconds_left(self) -> float | None:
        if not self.assignment.timeout_at_ms:
            return None
        return max(0.0, (self.assignment.timeout_at_ms - self.assignment.assigned_ms) / 1000)
