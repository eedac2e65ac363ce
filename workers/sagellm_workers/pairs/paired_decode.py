"""The decoding side of a pair: an engine that answers what another one reads for it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from sagellm_control.wire.assignment import Assignment
from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import Outcome

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
from ..attempts.engine_errors import asks_for_a_pause
from .paired_request import error_in, with_meeting_place
from .prompt import Prompt, Prompts

PARTNER_SAYS_WITHIN_S = 1.0
"""How much later than the decoding engine the other one may say what went wrong."""


class PairedAdapter:
    """An engine that decodes, for one attempt: each call has its prompt read by a prefilling engine."""

    def __init__(self, engine: EngineAdapter, prompts: Prompts, assignment: Assignment) -> None:
        self._engine = engine
        self._prompts = prompts
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
        prompt = self._prompts.order(self._assignment)
        try:
            await prompt.submit(call.body)
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
            if (error := error_in(chunk)) is not None and not error.refuses:
                raise EngineBroken(f"the answer could not be begun: {error.message}")
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
