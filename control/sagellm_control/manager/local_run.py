"""One request run from this process: a place in line, an engine, another one where it fails, one deadline for all."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from ..engine_access import (
    AnswerLength,
    EngineAdapter,
    EngineCall,
    EngineError,
    EngineReply,
    EngineTimeout,
    decode_body,
    prefill,
)
from ..types import EngineInfo, RequestType
from ..wire.request import Arrival
from ..wire.states import RequestKind
from .backend import Job, Piece, Reply, RequestFailed, no_engine
from .failures import deadline_failure, is_worth_another, objective_failure, queue_full, status_failure, unavailable
from .line import Ticket
from .local_queue import DECODE, PREFILL, ModelQueue
from .replay import Replay

if TYPE_CHECKING:
    from .local_backend import LocalBackend

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
"""Before the same engine is tried again: doubled each time, with jitter. Another engine is tried at once."""
MOST_ERROR_BYTES = 1 << 20

Place = tuple[EngineInfo, Ticket]
"""An engine, and what was taken of it."""


class LocalRun:
    """One run. ``queue`` is None where no engine of the model is registered."""

    def __init__(self, backend: LocalBackend, job: Job, queue: ModelQueue | None) -> None:
        self._backend = backend
        self._job = job
        self._queue = queue
        self._arrived_ms = time.time() * 1000
        self._excluded: tuple[str, ...] = ()
        self._replay = Replay(job)
        self._sent = False
        self._retry_after_s: float | None = None

    async def ask(self) -> Reply:
        """The whole answer. Raises RequestFailed."""
        try:
            async with asyncio.timeout(self._job.timeout_s), aclosing(self._pieces()) as pieces:
                pieces_read = [piece async for piece in pieces]
        except TimeoutError:
            raise deadline_failure(self._job.timeout_s) from None
        return Reply(pieces_read[-1].engine_id, b"".join(piece.data for piece in pieces_read))

    async def stream(self) -> AsyncGenerator[Piece, None]:
        """The answer as it comes. Raises RequestFailed."""
        loop = asyncio.get_running_loop()
        until = None if self._job.timeout_s is None else loop.time() + self._job.timeout_s
        async with aclosing(self._pieces()) as pieces:
            while True:
                try:
                    # Round each step, so that it never falls into what the reader does in between.
                    async with asyncio.timeout_at(until):
                        piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise deadline_failure(self._job.timeout_s) from None
                yield piece

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        failure: RequestFailed | None = None
        for attempt in range(self._backend.settings.max_attempts):
            if failure is not None and not self._another():
                await asyncio.sleep(self._pause_s(attempt))
            try:
                async with aclosing(self._attempt(failure)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except AttemptFailed as failed:
                failure = failed.failure
                self._excluded = (*(name for name in self._excluded if name != failed.engine_id), failed.engine_id)
                if self._sent and not self._replay.rewind():
                    break
        assert failure is not None
        raise failure

    async def _attempt(self, before: RequestFailed | None) -> AsyncGenerator[Piece, None]:
        job, queue = self._job, self._queue
        if queue is None:
            raise unavailable(no_engine(job.model))
        body = job.body
        ability = queue.ability(RequestType.EMBEDDING if job.kind is RequestKind.EMBEDDING else RequestType.LLM_CHAT)
        transfer = None
        if job.kind is not RequestKind.EMBEDDING and queue.separated:
            transfer = await self._prefill(queue, before)
            ability = DECODE
        info, ticket = await self._place(queue, ability, before)
        length = AnswerLength()
        output_tokens: int | None = None
        try:
            adapter = await self._adapter(info)
            if transfer is not None:
                body = decode_body(body, transfer, own_wire=adapter.name == "sagellm")
            async with adapter.run(_call(job, body)) as reply:
                if reply.status >= 400:
                    await self._refused(reply, info.engine_id)
                if job.stream and reply.is_event_stream:
                    async for chunk in reply.chunks:
                        length.event(chunk)
                        if chunk := self._replay.pass_on(chunk):
                            self._sent = True
                            yield Piece(info.engine_id, chunk)
                else:
                    whole = b"".join([chunk async for chunk in reply.chunks])
                    length.body(whole)
                    yield Piece(info.engine_id, whole, events=reply.is_event_stream)
            output_tokens = length.output_tokens
        except EngineError as error:
            raise self._broken(info, error) from error
        finally:
            queue.give_back(info, ticket, output_tokens)

    async def _prefill(self, queue: ModelQueue, before: RequestFailed | None) -> dict[str, object]:
        info, ticket = await self._place(queue, PREFILL, before)
        try:
            done = await prefill(await self._adapter(info), _call(self._job, self._job.body))
        except EngineError as error:
            raise self._broken(info, error) from error
        finally:
            queue.give_back(info, ticket)
        if done.status >= 400:
            self._refuse(done.status, done.body, done.retry_after_s, info.engine_id)
        return done.transfer

    async def _place(self, queue: ModelQueue, ability: str, before: RequestFailed | None) -> Place:
        """A place on an engine, when it is this request's turn."""
        job = self._job
        if not queue.ready(ability):
            raise before or unavailable(no_engine(job.model))
        arrival = Arrival(
            job.request_id,
            job.priority,
            self._arrived_ms,
            job.tenant,
            kind=ability,
            slo_ms=job.slo_ms,
            prompt_tokens=job.prompt_tokens,
            max_tokens=job.max_tokens,
            excluded=self._excluded,
            **job.hints,
        )
        ticket = queue.ticket(arrival)
        engine_id = queue.choose(ticket)
        if engine_id is not None:
            queue.take(engine_id, ticket)
            return self._backend.board.engines[engine_id], ticket
        if len(queue) >= self._backend.settings.max_waiting:
            raise queue_full(job.model, len(queue))
        turn: asyncio.Future[EngineInfo | None] = asyncio.get_running_loop().create_future()

        def granted(name: str | None) -> None:
            info = self._backend.board.engines[name] if name is not None else None
            if not turn.done():
                turn.set_result(info)
            elif info is not None:
                queue.give_back(info, ticket)

        ticket.granted = granted
        queue.wait(ticket)
        try:
            info = await turn
        except asyncio.CancelledError:
            queue.leave(ticket)
            if turn.done() and not turn.cancelled() and (info := turn.result()) is not None:
                queue.give_back(info, ticket)
            raise
        if info is None and ticket.refused:
            raise objective_failure(job.slo_ms)
        if info is None:
            raise before or unavailable(no_engine(job.model))
        return info, ticket

    async def _adapter(self, info: EngineInfo) -> EngineAdapter:
        adapter = self._backend.adapters.known(info.engine_id)
        return adapter if adapter is not None else await self._backend.adapters.find(info)

    async def _refused(self, reply: EngineReply, engine_id: str) -> None:
        body = bytearray()
        async for chunk in reply.chunks:
            body += chunk
            if len(body) > MOST_ERROR_BYTES:
                break
        self._refuse(reply.status, bytes(body), reply.retry_after_s, engine_id)

    def _refuse(self, status: int, body: bytes, retry_after_s: float | None, engine_id: str) -> None:
        failure = status_failure(status, body, stream=self._job.stream, engine_id=engine_id)
        if not is_worth_another(status):
            raise failure
        self._retry_after_s = retry_after_s
        raise AttemptFailed(failure, engine_id)

    def _broken(self, info: EngineInfo, error: EngineError) -> AttemptFailed:
        self._retry_after_s = None
        if not isinstance(error, EngineTimeout):
            self._backend.engine_trouble(info.engine_id)
        text = f"Stream error: {error}" if self._job.stream else str(error)
        return AttemptFailed(unavailable(text, engine_id=info.engine_id), info.engine_id)

    def _another(self) -> bool:
        return self._queue is not None and self._queue.others(self._excluded)

    def _pause_s(self, attempt: int) -> float:
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)
        return max(pause_s, self._retry_after_s or 0.0)


class AttemptFailed(Exception):
    """An attempt failed in a way that another engine may not."""

    def __init__(self, failure: RequestFailed, engine_id: str) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.engine_id = engine_id


def _call(job: Job, body: bytes) -> EngineCall:
    return EngineCall(
        request_id=job.request_id,
        trace_id=job.trace_id or None,
        traceparent=None,
        kind=str(job.kind),
        stream=job.stream,
        body=body,
        priority=int(job.priority),
    )
