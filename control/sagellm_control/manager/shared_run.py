"""One request through the shared queue."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

from sagellm_protocol import ErrorCode

from ..client import (
    NoEngineReady,
    QueueClient,
    QueueError,
    QueueFull,
    RequestConflict,
    Submission,
    TooLate,
    UnknownModel,
)
from ..wire.event import CHUNK, EVENT_STREAM, Ending
from ..wire.request import is_request_id
from ..wire.states import Outcome
from ..wire.trace_context import TraceContext
from .backend import Job, Piece, Reply, RequestFailed, no_engine
from .failures import deadline_failure, objective_failure, queue_full, status_failure, unavailable
from .promised import PromisedEngines

LATE_S = 0.25
"""The queue ends a request whose time is over; its caller waits so much longer (s) for that."""
SHORTEST_S = 0.001


class SharedRun:
    """One run."""

    def __init__(self, queue: QueueClient, job: Job, promised: PromisedEngines) -> None:
        self._queue = queue
        self._job = job
        self._promised = promised

    async def ask(self) -> Reply:
        """The whole answer. Raises RequestFailed."""
        engine_id, parts = "", list[bytes]()
        async for piece in self.stream():
            engine_id = piece.engine_id
            parts.append(piece.data)
        return Reply(engine_id, b"".join(parts))

    async def stream(self) -> AsyncGenerator[Piece, None]:
        """The answer as it comes. Raises RequestFailed."""
        job = self._job
        loop = asyncio.get_running_loop()
        until = None if job.timeout_s is None else loop.time() + job.timeout_s + LATE_S
        submission = await submitted(self._queue, await self._once_served())
        ended = False
        engine_id, attempt = "", 0
        events = self._queue.stream(submission.request_id)
        try:
            while True:
                try:
                    async with asyncio.timeout_at(until):
                        event = await anext(events)
                except StopAsyncIteration:
                    raise unavailable("The request is gone from the queue") from None
                except TimeoutError:
                    raise deadline_failure(job.timeout_s) from None
                if event.type == CHUNK:
                    if event.attempt != attempt:  # the first one, or another engine goes on
                        engine_id, attempt = await self._engine_of(submission), event.attempt
                    yield Piece(engine_id, event.payload)
                    continue
                ended = True
                ending = Ending.decode(event.payload)
                if ending.outcome is not Outcome.COMPLETED:
                    raise failure_of(job, ending)
                if ending.body:
                    yield Piece(ending.engine, ending.body, events=ending.content_type.startswith(EVENT_STREAM))
                return
        finally:
            await events.aclose()
            if not ended:
                self._queue.abandon(submission)

    async def _once_served(self) -> Job:
        """The job, with what is left of its time when there is a worker for it."""
        job = self._job
        if not self._promised.awaited(job.model):
            return job
        began = time.monotonic()
        try:
            await self._promised.served(job.model, job.timeout_s)
        except TimeoutError:
            raise deadline_failure(job.timeout_s) from None
        if job.timeout_s is None:
            return job
        return replace(job, timeout_s=max(SHORTEST_S, job.timeout_s - (time.monotonic() - began)))

    async def _engine_of(self, submission: Submission) -> str:
        record = self._queue.store.keys.pool(submission.pool).record(submission.request_id)
        name = await self._queue.store.commands.hget(record, "engine")
        return name.decode() if name else ""


async def submitted(queue: QueueClient, job: Job) -> Submission:
    """The request is in the queue, under its own id if that can be. Raises RequestFailed."""
    request_id = job.request_id if is_request_id(job.request_id) else None
    try:
        try:
            return await _submit(queue, job, request_id)
        except RequestConflict:
            # Programs use ids more than once; the queue's are unique.
            return await _submit(queue, job, f"{job.request_id[:50]}.{secrets.token_hex(4)}")
    except (UnknownModel, NoEngineReady):
        raise unavailable(no_engine(job.model)) from None
    except TooLate:
        raise objective_failure(job.slo_ms) from None
    except QueueFull as error:
        raise queue_full(job.model, error.waiting) from None
    except QueueError as error:
        raise unavailable(str(error)) from error
    except ValueError as error:
        raise RequestFailed(ErrorCode.INVALID_ARGUMENT, str(error), retryable=False) from error


async def _submit(queue: QueueClient, job: Job, request_id: str | None) -> Submission:
    return await queue.submit(
        job.model,
        job.body,
        kind=job.kind,
        request_id=request_id,
        priority=job.priority,
        tenant=job.tenant,
        stream=job.stream,
        timeout_s=job.timeout_s,
        slo_s=job.slo_ms / 1000 if job.slo_ms else None,
        prompt_tokens=job.prompt_tokens,
        max_tokens=job.max_tokens,
        trace=TraceContext(job.trace_id),
        continuable=job.continuable,
        **job.hints,
    )


def failure_of(job: Job, ending: Ending) -> RequestFailed:
    """Why a request ended as it did."""
    if ending.outcome is Outcome.EXPIRED:
        return deadline_failure(job.timeout_s)
    if ending.body or ending.outcome is Outcome.REFUSED:
        return status_failure(ending.status, ending.body, stream=job.stream, engine_id=ending.engine)
    text = ending.message or f"The request ended as {ending.outcome}"
    failure = unavailable(f"Stream error: {text}" if job.stream else text, engine_id=ending.engine)
    return failure if ending.outcome is not Outcome.CANCELLED else RequestFailed(failure.code, text, retryable=False)
