"""The prefilling side of a pair: a prompt that is read for a request which another engine holds."""

from __future__ import annotations

import asyncio
import secrets

import orjson
from redis.exceptions import RedisError

from sagellm_control.store.connect import Store
from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import Outcome, RequestState

from ..adapters.base import EngineBroken, EngineCall, EngineReply
from ..attempts.attempt import Attempt
from ..observation.answer_length import AnswerLength
from .paired_request import ROOM_BITS, PromptOrder, error_in, meeting_place, with_meeting_place

LOOK_EVERY_S = 2.0
"""How often it is looked whether the request is still held by the attempt that wants its prompt read. Mostly that one
says so itself; this is for a worker that died."""
_HELD = (RequestState.ASSIGNED.encode(), RequestState.RUNNING.encode())


class PromptAttempt(Attempt):
    """One attempt to read a prompt. What the engine answers is for nobody."""

    async def read(self, encoded: bytes, store: Store, pool: str) -> None:
        """Say where the engines meet, and call this one."""
        order = PromptOrder.decode(encoded)
        room = secrets.randbits(ROOM_BITS)
        place = meeting_place(self.adapter.url, self.adapter.bootstrap_port, room)
        self.pending.append(b"data: " + orjson.dumps(place) + b"\n\n")
        self.outbox.output(self)
        watching = asyncio.create_task(self._until_unwanted(order, store, pool), name=f"wanted {order.request_id}")
        try:
            await self.run(with_meeting_place(order.body, place))
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def _until_unwanted(self, order: PromptOrder, store: Store, pool: str) -> None:
        record = store.keys.pool(pool).record(order.request_id)
        while True:
            try:
                state, attempt = await store.commands.hmget(record, "state", "attempt")
            except (RedisError, OSError):
                pass  # nobody can say so now
            else:
                if state not in _HELD or attempt != str(order.attempt).encode():
                    self.stop("cancelled")
                    return
            await asyncio.sleep(LOOK_EVERY_S)

    def _finish(self, ending: Ending, result: str) -> None:
        if self.sequence == 0:
            # Nobody has heard of the place, and the ending is for a client: it must not go in front of that.
            self.pending.clear()
        super()._finish(ending, result)

    def _staged(self, call: EngineCall) -> EngineCall:
        return call  # both engines get the same

    async def _pass_on(self, reply: EngineReply) -> None:
        if reply.status >= 400:
            await self._pass_on_error(reply)
            return
        pieces: list[bytes] = []
        async for piece in reply.chunks:
            self.watch.piece()
            pieces.append(piece)
        answer = b"".join(pieces)
        if (error := error_in(answer)) is not None:
            raise EngineBroken(f"engine {self.engine_id} could not read the prompt: {error.message}")
        self.watch.length.body(answer)
        self.watch.stream_ended()
        self.watch.length = AnswerLength()  # its one token says nothing of how long answers become
        self._finish(Ending(Outcome.COMPLETED, engine=self.engine_id), "prefilled")
