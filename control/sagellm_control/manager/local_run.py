"""One request run from this process: a place in line, an engine, another one where it fails, one deadline for all."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from ..engine_access import (
    AnswerWatch,
    CannotContinue,
    EngineAdapter,
    EngineBroken,
    EngineCall,
    EngineError,
    EngineReply,
    EngineTimeout,
    NotSeparable,
    Stale,
    Takeover,
    read_error_reply,
    read_prefill,
    refuses,
    staged_call,
)
from ..manager_settings import ManagerSettings
from ..types import EngineInfo
from ..wire.attempts import id_of_attempt
from ..wire.request import Arrival
from ..wire.states import Stage
from ..wire.trace_context import TraceContext
from .backend import Job, Piece, Reply, RequestFailed, no_engine
from .engine_adapters import EngineAdapters
from .failures import deadline_failure, status_failure, unavailable
from .line import Ticket
from .local_place import Place, wait_for_place
from .local_queue import ModelQueue

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
"""Before the same engine is tried again: doubled each time, with jitter. Another engine is tried at once."""


class LocalRun:
    """One run. ``queue`` is None where no engine of the model is registered; ``suspect`` is told which engine could not
    be reached."""

    def __init__(
        self,
        job: Job,
        queue: ModelQueue | None,
        adapters: EngineAdapters,
        settings: ManagerSettings,
        suspect: Callable[[str], None],
    ) -> None:
        self._job = job
        self._queue = queue
        self._adapters = adapters
        self._settings = settings
        self._suspect = suspect
        self._arrived_ms = time.time() * 1000
        self._attempts = 0
        self._excluded: tuple[str, ...] = ()
        self._excluded_ms = 0.0
        self._failure: RequestFailed | None = None
        self._stage = Stage.WHOLE
        self._handed = b""
        """What the engine that read the prompt has handed over, if that was another one."""
        self._handed_at = 0.0
        self._given: list[bytes] = []
        """What the client has of a stream with which another engine may go on."""
        self._sent = False
        self._answered = False
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
        failures = 0
        while not self._answered:
            try:
                async with aclosing(self._attempt()) as pieces:
                    async for piece in pieces:
                        yield piece
            except AttemptFailed as failed:
                failures += 1
                self._failure = failed.failure
                self._excluded = (*(name for name in self._excluded if name != failed.engine_id), failed.engine_id)
                self._excluded_ms = time.time() * 1000
                self._stage, self._handed = Stage.WHOLE, b""
                if failures >= self._settings.max_attempts or (self._sent and not self._job.continuable):
                    raise failed.failure from failed
                if not self._another():
                    await asyncio.sleep(self._pause_s(failures))

    async def _attempt(self) -> AsyncGenerator[Piece, None]:
        """One engine for the request, or for a stage of it; ``_answered`` says whether that was all."""
        job, queue = self._job, self._queue
        if queue is None:
            raise unavailable(no_engine(job.model))
        info, ticket = await self._place(queue)
        if not self._stage and queue.only_prefills(info.engine_id):
            self._stage = Stage.PREFILL
        watch = AnswerWatch(queue.observation(info.engine_id), job.kind, _uncached_tokens(ticket))
        output_tokens: int | None = None
        try:
            adapter = await self._adapter(info)
            call, takeover = await self._ask(info, adapter, watch)
            if call is None:
                self._answered = True
                yield Piece(info.engine_id, takeover.closing() if takeover else b"")
                return
            with watch:
                async with adapter.run(call) as reply:
                    if reply.status >= 400:
                        await self._refused(reply, info.engine_id)
                    if self._stage is Stage.PREFILL:
                        kind = await self._adapters.kind(info.engine_id, adapter)
                        self._hand_on(await read_prefill(reply, kind, watch, call.sent_id))
                        return
                    async for piece in self._read(reply, info, watch, takeover):
                        yield piece
            output_tokens = watch.length.output_tokens
            self._answered = True
        except NotSeparable:
            self._hand_on(b"")
        except Stale:
            self._stage, self._handed = Stage.WHOLE, b""
        except (RequestFailed, AttemptFailed):
            raise
        except Exception as error:
            raise self._failure_of(error, info.engine_id) from error
        finally:
            queue.give_back(info, ticket, output_tokens)

    async def _read(
        self, reply: EngineReply, info: EngineInfo, watch: AnswerWatch, takeover: Takeover | None
    ) -> AsyncGenerator[Piece, None]:
        if self._job.stream and reply.is_event_stream:
            async for chunk in takeover.chunks(reply.chunks) if takeover else reply.chunks:
                watch.events(chunk)
                self._sent = True
                if self._job.continuable:
                    self._given.append(chunk)
                yield Piece(info.engine_id, chunk)
            watch.stream_ended()
            return
        if takeover is not None:
            raise EngineBroken(f"engine {info.engine_id} was to go on with a stream, and answered with none")
        pieces: list[bytes] = []
        async for piece in reply.chunks:
            watch.piece()
            pieces.append(piece)
        whole = b"".join(pieces)
        watch.body(whole)
        yield Piece(info.engine_id, whole, events=reply.is_event_stream)

    async def _ask(
        self, info: EngineInfo, adapter: EngineAdapter, watch: AnswerWatch
    ) -> tuple[EngineCall | None, Takeover | None]:
        """What the engine is asked for (None: nothing is left to ask for), and what is made of its answer.

        Raises:
            NotSeparable, Stale, CannotContinue
        """
        job, stage = self._job, self._stage
        if not stage and not self._given:
            return self._call(job.body), None
        kind = await self._adapters.kind(info.engine_id, adapter)
        takeover, body = None, job.body
        if self._given:
            takeover = Takeover(kind, job.kind, self._given, body)
            if takeover.body is None:
                return None, takeover
            body = takeover.body
        call, age_ms = self._call(body), (time.monotonic() - self._handed_at) * 1000
        staged = staged_call(call, stage, kind, adapter, handed=self._handed, age_ms=age_ms)
        watch.prefilled_elsewhere = staged is not call and stage is Stage.DECODE
        return staged, takeover

    def _call(self, body: bytes) -> EngineCall:
        job, self._attempts = self._job, self._attempts + 1
        return EngineCall(
            request_id=job.request_id,
            trace=TraceContext(job.trace_id),
            kind=str(job.kind),
            stream=job.stream,
            body=body,
            priority=int(job.priority),
            sent_id=id_of_attempt(job.request_id, self._attempts),
        )

    def _hand_on(self, handed: bytes) -> None:
        """The prompt has been read, and another engine answers."""
        self._stage, self._handed, self._handed_at = Stage.DECODE, handed, time.monotonic()

    async def _place(self, queue: ModelQueue) -> Place:
        """A place on an engine, when it is this request's turn. Raises RequestFailed."""
        job = self._job
        arrival = Arrival(
            job.request_id,
            job.priority,
            self._arrived_ms,
            job.tenant,
            kind=job.kind,
            slo_ms=job.slo_ms,
            prompt_tokens=job.prompt_tokens,
            max_tokens=job.max_tokens,
            excluded=self._excluded,
            excluded_ms=self._excluded_ms,
            stage=self._stage,
            **job.hints,
        )
        place = await wait_for_place(queue, arrival, self._settings.max_waiting)
        if place is None:
            raise self._failure or unavailable(no_engine(job.model))
        return place

    async def _adapter(self, info: EngineInfo) -> EngineAdapter:
        adapter = self._adapters.known(info.engine_id)
        return adapter if adapter is not None else await self._adapters.find(info)

    async def _refused(self, reply: EngineReply, engine_id: str) -> None:
        refusal = await read_error_reply(reply, engine_id)
        failure = status_failure(refusal.status, refusal.body, stream=self._job.stream, engine_id=engine_id)
        if refuses(refusal.status):
            raise failure
        self._retry_after_s = refusal.retry_after_s
        raise AttemptFailed(failure, engine_id)

    def _failure_of(self, error: Exception, engine_id: str) -> RequestFailed | AttemptFailed:
        """What an error that ended an attempt means for the request."""
        if isinstance(error, CannotContinue):
            text = f"The engine was lost in the middle of the answer, and {error}."
            failure = unavailable(text, engine_id=engine_id)
            return failure if error.anywhere else AttemptFailed(failure, engine_id)
        if not isinstance(error, EngineError):
            # An address that is none, or a bug: it costs this attempt, and no caller his answer.
            log.warning("engine %s: an attempt failed unexpectedly: %r", engine_id, error)
            error = EngineBroken(f"engine {engine_id}: {error!r}")
        self._retry_after_s = None
        if not isinstance(error, EngineTimeout):
            self._suspect(engine_id)
        text = f"Stream error: {error}" if self._job.stream else str(error)
        return AttemptFailed(unavailable(text, engine_id=engine_id), engine_id)

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


def _uncached_tokens(ticket: Ticket) -> int:
    return math.ceil(ticket.taken.uncached_tokens) if ticket.taken is not None else 0
