"""The decoding side of a pair: an engine that answers what another one reads for it at the same time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
from redis.exceptions import RedisError

from sagellm_control.store.backoff import Backoff
from sagellm_control.store.connect import Store
from sagellm_control.store.inspect import server_ms
from sagellm_control.store.steps.accept import AcceptLimits, AcceptResult, accept
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.stream_answer import stream_entries
from sagellm_control.wire.assignment import Assignment
from sagellm_control.wire.event import END, Ending, Event, read_log_entry
from sagellm_control.wire.request import NewRequest
from sagellm_control.wire.states import Outcome, Stage

from ..adapters.base import (
    EngineAdapter,
    EngineBroken,
    EngineCall,
    EngineFacts,
    EngineReply,
    PartnerAnswered,
    PartnerBusy,
    PartnerFailed,
    PartnerRefused,
)
from ..adapters.loose_json import mapping
from ..adapters.sse import data_of
from ..attempts.engine_errors import asks_for_a_pause
from ..attempts.insistence import write_until_taken
from .paired_request import PromptOrder, error_in, with_meeting_place

LIMITS = AcceptLimits(max_waiting=0, without_engine=True, keep_result_ms=60_000)
"""A prompt takes no place of the queue's: its request has one already."""
BLOCK_MS = 2000
PARTNER_SAYS_WITHIN_S = 1.0
"""How much later than the decoding engine the other one may say what went wrong."""
_COPIED = ("model", "prefix", "prompt_tokens")


class Prompt:
    """The request that reads the prompt of another one."""

    def __init__(self, store: Store, reads: Any, pool: str, assignment: Assignment) -> None:
        self._store = store
        self._reads = reads
        self._pool = pool
        self._for = assignment
        self._id = f"prompt-{secrets.token_hex(12)}"
        self._ticket = secrets.token_hex(8)
        self._last = "0-0"
        self.ending: Ending | None = None

    async def submit(self, body: bytes) -> None:
        """Bring it into the queue, however long Redis takes.

        Raises:
            PartnerFailed: Redis refuses it for good.
        """

        async def write(bodies: Sequence[bytes]) -> list[AcceptResult]:
            return await accept(self._store, self._pool, [await self._request(each) for each in bodies], LIMITS)

        if await write_until_taken(f"request {self._for.request_id}", [body], write) == [None]:
            raise PartnerFailed("the order to read the prompt could not be written")

    async def _request(self, body: bytes) -> NewRequest:
        a, keys = self._for, self._store.keys.pool(self._pool)
        model, prefix, tokens = await self._store.commands.hmget(keys.record(a.request_id), *_COPIED)
        left_ms = a.timeout_at_ms - await server_ms(self._store, self._pool) if a.timeout_at_ms else 0.0
        return NewRequest(
            id=self._id,
            pool=self._pool,
            kind=a.kind,
            body=PromptOrder(a.request_id, a.attempt, body).encode(),
            inbox="",
            ticket=self._ticket,
            priority=a.priority,
            model=(model or b"").decode(errors="replace"),
            prefix=tuple((prefix or b"").decode().split()),
            prompt_tokens=int(tokens or 0),
            max_tokens=1,
            timeout_ms=max(1, int(left_ms)) if a.timeout_at_ms else 0,
            trace=a.trace,
            stage=Stage.PREFILL,
        )

    async def meeting_place(self) -> dict[str, Any] | None:
        """Where the engines meet; None: it has ended before anybody said so."""
        while self.ending is None:
            for event in await self._next_events():
                if event.type == END:
                    self.ending = Ending.decode(event.payload)
                else:
                    return mapping(orjson.loads(data_of(event.payload)[0]))
        return None

    async def ended(self) -> Ending:
        """Wait until it has ended."""
        while self.ending is None:
            for event in await self._next_events():
                if event.type == END:
                    self.ending = Ending.decode(event.payload)
        return self.ending

    async def drop(self) -> None:
        """Nobody needs it any more. Without Redis its worker finds out by itself."""
        if self.ending is None:
            try:
                await cancel(self._store, self._pool, self._id)
            except (RedisError, OSError):
                return

    async def _next_events(self) -> list[Event]:
        stream, backoff = self._store.keys.pool(self._pool).output(self._id), Backoff()
        while True:
            try:
                answer = await self._reads.xread({stream: self._last}, block=BLOCK_MS)
            except (RedisError, OSError):
                await backoff.pause()
                continue
            events: list[Event] = []
            for _, entry_id, fields in stream_entries(answer):
                self._last = entry_id.decode()
                events.append(read_log_entry(self._id, entry_id, fields or {}))
            return events


class PairedAdapter:
    """An engine that decodes, for one attempt: each call has its prompt read by a prefilling engine.

    Args:
        reads: a client for blocking reads.
    """

    def __init__(self, engine: EngineAdapter, store: Store, reads: Any, pool: str, assignment: Assignment) -> None:
        self._engine = engine
        self._store = store
        self._reads = reads
        self._pool = pool
        self._assignment = assignment

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def url(self) -> str:
        return self._engine.url

    @property
    def bootstrap_port(self) -> int:
        return self._engine.bootstrap_port

    @property
    def heard_at(self) -> float:
        return self._engine.heard_at

    async def probe(self) -> EngineFacts:
        return await self._engine.probe()

    async def healthy(self) -> bool:
        return await self._engine.healthy()

    @asynccontextmanager
    async def run(self, call: EngineCall) -> AsyncGenerator[EngineReply]:
        """Raises PartnerFailed and PartnerAnswered, besides what the engine's own adapter raises."""
        prompt = Prompt(self._store, self._reads, self._pool, self._assignment)
        await prompt.submit(call.body)
        try:
            place = await prompt.meeting_place()
            if place is None:
                raise _failure(prompt.ending)
            body = with_meeting_place(call.body, place)
            try:
                async with asyncio.timeout(None) as cut:
                    watching = asyncio.create_task(_cut_off(prompt, cut), name=f"prompt of {call.request_id}")
                    try:
                        async with self._engine.run(replace(call, body=body)) as reply:
                            if reply.status >= 500:
                                await _learn_why(watching)
                            chunks = _Watched(reply.chunks, watching) if reply.status < 400 else reply.chunks
                            yield replace(reply, chunks=chunks)
                    except EngineBroken:
                        await _learn_why(watching)
                        raise
                    finally:
                        watching.cancel()
            except TimeoutError:
                raise _failure(prompt.ending) from None
        finally:
            await prompt.drop()


class _Watched:
    """An answer; once it has begun, its prompt has been read, whatever becomes of the engine that read it."""

    def __init__(self, chunks: AsyncIterator[bytes], watching: asyncio.Task[None]) -> None:
        self._chunks = chunks
        self._watching = watching
        self._begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._chunks)
        if not self._begun:
            if (error := error_in(chunk)) is not None:
                raise EngineBroken(f"the answer could not be begun: {error}")
            self._begun = True
            self._watching.cancel()
        return chunk


async def _learn_why(watching: asyncio.Task[None]) -> None:
    """Have the call cut off, and the other engine blamed, if this one failed as its prompt could not be read."""
    await asyncio.wait({watching}, timeout=PARTNER_SAYS_WITHIN_S)


async def _cut_off(prompt: Prompt, cut: asyncio.Timeout) -> None:
    """End the call of the decoding engine when its prompt cannot be read."""
    if (await prompt.ended()).outcome is not Outcome.COMPLETED:
        cut.reschedule(asyncio.get_running_loop().time())


def _failure(ending: Ending | None) -> PartnerFailed | PartnerAnswered:
    """What the prefilling engine says of the request itself is said to the client, and that it is busy to the queue."""
    if ending is not None and ending.outcome is Outcome.REFUSED:
        return PartnerRefused(ending)
    if ending is not None and asks_for_a_pause(ending):
        return PartnerBusy(ending)
    why = (ending.message or ending.code or str(ending.outcome)) if ending else "it is gone"
    return PartnerFailed(f"the prompt could not be read: {why}")
