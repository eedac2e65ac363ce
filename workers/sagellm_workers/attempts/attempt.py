"""The unit of work: one attempt of one request. It runs the engine and knows how to finish or give back itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.assignment import Assignment
from sagellm_control.wire.event import EVENT_STREAM, Ending
from sagellm_control.wire.states import Outcome, Stage

from ..adapters.base import (
    AnswerTooLong,
    EngineAdapter,
    EngineBroken,
    EngineCall,
    EngineError,
    EngineReply,
    PartnerBusy,
    PartnerRefused,
)
from ..observation.answer_watch import AnswerWatch
from ..observation.observation import EngineObservation
from ..takeover import CannotContinue, Takeover
from .answer_form import StreamForm, check_body
from .engine_errors import asks_for_a_pause, failed_call, read_error_reply
from .prefill_decode import NotSeparable, Stale, read_prefill, staged_call

MOST_PENDING_BYTES = 1 << 20
"""Output that may wait for Redis; beyond it the engine is read no further until some has been written."""


class Reports(Protocol):
    """Where an attempt reports to: see ``Outbox``."""

    def output(self, attempt: Attempt) -> None: ...
    def finish(self, attempt: Attempt, ending: Ending) -> None: ...
    def requeue(self, attempt: Attempt, cause: Cause, last_error: Ending | None = None, reason: str = "") -> None: ...
    def advance(self, attempt: Attempt, transfer: bytes) -> None: ...


class Attempt:
    """One attempt: from the assignment to its report."""

    def __init__(
        self,
        assignment: Assignment,
        adapter: EngineAdapter,
        outbox: Reports,
        engine_id: str,
        engine_kind: str = "",
        observation: EngineObservation | None = None,
    ) -> None:
        self.assignment = assignment
        self.key = (assignment.request_id, assignment.attempt)
        """Request id and attempt number."""
        self.adapter = adapter
        self.outbox = outbox
        self.engine_id = engine_id
        self.engine_kind = engine_kind
        self.takeover: Takeover | None = None
        """Set where it goes on with what earlier attempts have given."""
        self.watch = AnswerWatch(observation or EngineObservation(), assignment.kind, assignment.uncached_tokens)
        self.sequence = 0
        """Number of the last event handed to Redis."""
        self.pending: list[bytes] = []
        self.pending_bytes = 0
        self.written = asyncio.Event()
        """Set whenever pending output has been written."""
        self.duration_s = 0.0
        self.result = "lost"
        """How it ended, for the metrics."""
        self.retry_after_s: float | None = None
        """So long (s) the engine asked to be left alone instead of answering."""
        self._reported = False
        self._task: asyncio.Task[None] | None = None
        self._taken_at = time.monotonic()
        self._began_at = self._taken_at
        """When the worker got it, and when it began to run it."""
        self._stop_as: str | None = None

    @property
    def reported(self) -> bool:
        """Whether it has ended, by its own account."""
        return self._reported

    @property
    def held_ms(self) -> float:
        """For how long it waited for a slot of the engine."""
        return (self._began_at - self._taken_at) * 1000

    @property
    def ran_ms(self) -> float:
        """For how long it has run."""
        return (time.monotonic() - self._began_at) * 1000

    def waits_since(self, moment: float) -> bool:
        """Whether the engine is called, and has said nothing more to it since then (monotonic)."""
        return self.watch.calling and self.watch.heard_at < moment

    def start(self, task: asyncio.Task[None]) -> None:
        """Remember the task that runs it, so that it can be stopped."""
        self._task = task
        self._began_at = time.monotonic()
        if self._stop_as is not None:
            task.cancel()

    def stop(self, why: str) -> None:
        """Stop it: ``cancelled`` or ``expired`` (it is finished so), ``returned`` (it is given back), ``gone`` (so is
        its engine, which has failed it), or ``lost`` (it is somebody else's now: nothing is reported)."""
        if self._stop_as is None:
            self._stop_as = why
            if self._task is not None:
                self._task.cancel()

    async def run(self, body: bytes, given: Sequence[bytes] = ()) -> None:
        """Run the engine and report how it ended; after a ``stop``, ``report_stop`` reports.

        Args:
            given: what earlier attempts have logged of the answer; it is gone on with.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds_left()):
                await self._run(body, given)
        except TimeoutError:
            message = "The request's timeout passed while the engine ran."
            self.end(Outcome.EXPIRED, 504, "deadline_exceeded", message)
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
                # The blocks of a decode that has begun may have been fetched, and its engine may still know its id.
                self.give_back(Cause.STALE if self.assignment.stage is Stage.DECODE else Cause.RETURNED)
            case "gone":
                silent = EngineBroken(f"engine {self.engine_id} answers neither this request nor health probes")
                self._fail(failed_call(silent, self.engine_id))
            case _:
                self.pending.clear()

    def give_back(self, cause: Cause = Cause.RETURNED) -> None:
        """Back to the waiting set; it counts as no failure."""
        self._reported = True
        self.result = "returned"
        self.outbox.requeue(self, cause)

    async def _run(self, body: bytes, given: Sequence[bytes]) -> None:
        a = self.assignment
        if given:
            try:
                self.takeover = takeover = Takeover(self.engine_kind, a.kind, given, body)
            except CannotContinue as error:
                self._lose(f"the answer cannot be continued: {error}", anywhere=error.anywhere)
                return
            if takeover.body is None:
                self._finish(self._complete(EVENT_STREAM, takeover.closing()), "completed")
                return
            body = takeover.body
        call = EngineCall(
            a.request_id, a.trace, kind=a.kind, stream=a.stream, body=body, priority=int(a.priority), sent_id=a.sent_id
        )
        try:
            staged = self._staged(call)
            self.watch.prefilled_elsewhere |= staged is not call and a.stage is Stage.DECODE
            with self.watch:
                async with self.adapter.run(staged) as reply:
                    await self._pass_on(reply)
        except NotSeparable:
            self._advance(b"")
        except Stale:
            self._reported = True
            self.result = "stale"
            self.outbox.requeue(self, Cause.STALE)
        except PartnerRefused as refusal:
            self._refuse(refusal.ending)
        except PartnerBusy as busy:
            self._fail(busy.ending, busy=True)
        except EngineError as error:
            ending = failed_call(error, self.engine_id)
            if isinstance(error, AnswerTooLong):
                self._finish(ending, ending.code)
            else:
                self._fail(ending, reason=str(error))

    def _staged(self, call: EngineCall) -> EngineCall:
        a = self.assignment
        age_ms = a.assigned_ms - a.prefilled_ms
        return staged_call(call, a.stage, self.engine_kind, self.adapter, handed=a.transfer, age_ms=age_ms)

    def _advance(self, transfer: bytes) -> None:
        self._reported = True
        self.result = "prefilled"
        self.outbox.advance(self, transfer)

    async def _pass_on(self, reply: EngineReply) -> None:
        if reply.status >= 400:
            await self._pass_on_error(reply)
            return
        if self.assignment.stage is Stage.PREFILL:
            self._advance(await read_prefill(reply, self.engine_kind, self.watch, self.assignment.sent_id))
            return
        pieces: list[bytes] = []
        form, streamed = StreamForm(self.engine_id), reply.is_event_stream
        async for chunk in self._chunks(reply):
            if streamed:
                if events := form.check(chunk):
                    self.watch.events(events)
                    self.pending.append(events)
                    self.pending_bytes += len(events)
                    self.outbox.output(self)
                if form.failure is not None:
                    raise form.failure
                while self.pending_bytes > MOST_PENDING_BYTES:
                    self.written.clear()
                    await self.written.wait()
            else:
                self.watch.piece()
                pieces.append(chunk)
        body = b"".join(pieces)
        if streamed:
            form.check_end(gone_on=self.takeover is not None)
            self.watch.stream_ended()
        else:
            check_body(body, self.engine_id, self.assignment.kind, reply.content_type)
            self.watch.body(body)
        ending = self._complete(reply.content_type or "application/json", body, reply.status)
        self._finish(ending, "completed")

    def _complete(self, content_type: str, body: bytes, status: int = 200) -> Ending:
        return Ending(Outcome.COMPLETED, status, content_type, engine=self.engine_id, body=body)

    def _chunks(self, reply: EngineReply) -> AsyncIterator[bytes]:
        if self.takeover is None:
            return reply.chunks
        if not reply.is_event_stream:
            raise EngineBroken(f"engine {self.engine_id} was to go on with a stream, and answered with none")
        return self.takeover.chunks(reply.chunks)

    async def _pass_on_error(self, reply: EngineReply) -> None:
        if asks_for_a_pause(reply):
            self.retry_after_s = reply.retry_after_s
        # What it says is kept also then: if engines stay busy for too long, the client gets it.
        ending = await read_error_reply(reply, self.engine_id)
        if self.takeover is not None or ending.outcome is Outcome.REFUSED:
            self._refuse(ending)
        else:
            self._fail(ending)

    def _refuse(self, ending: Ending) -> None:
        if self.takeover is not None:
            # Half an answer is out: this engine's refusal is not the request's.
            self._lose(f"engine {self.engine_id} refused to go on ({ending.status})", anywhere=False)
        else:
            self._finish(ending, "refused")

    def _lose(self, why: str, *, anywhere: bool) -> None:
        message = f"The engine was lost in the middle of the answer, and {why}."
        ending = Ending(Outcome.FAILED, 502, code="engine_lost", message=message, engine=self.engine_id)
        if anywhere:
            self._finish(ending, "engine_lost")
        else:
            self._fail(ending)

    def _fail(self, ending: Ending, *, busy: bool = False, reason: str = "") -> None:
        busy = busy or self.retry_after_s is not None
        self._reported = True
        self.result = "engine_busy" if busy else ending.code
        self.outbox.requeue(self, Cause.BUSY if busy else Cause.FAILED, ending, reason)

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
        # From the server's assignment on by this clock: the way here is too short to matter.
        left_ms = self.assignment.timeout_at_ms - self.assignment.assigned_ms - self.held_ms
        return max(0.0, left_ms / 1000)
