"""The order to read the prompt of a request that another engine is to answer: a request of its own."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
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

from ..adapters.base import PartnerFailed
from ..adapters.loose_json import mapping
from ..adapters.sse import data_of
from ..attempts.insistence import write_until_taken
from .paired_request import PromptOrder

LIMITS = AcceptLimits(max_waiting=0, without_engine=True, keep_result_ms=60_000)
"""A prompt takes no place of the queue's: its request has one already."""
BLOCK_MS = 2000
MOST_AT_ONCE = 10_000
"""No bound: there are as many as the engine has places, however many those become."""
_COPIED = ("model", "prefix", "prompt_tokens")
_GONE = Ending(Outcome.FAILED, message="its record is gone")


class Prompts:
    """The prompts that the requests of one engine have read elsewhere, each waited for on a connection of its own."""

    def __init__(self, store: Store, pool: str) -> None:
        self.store = store
        self.pool = pool
        self._reads: Any = None

    @property
    def reads(self) -> Any:
        """A client for reads that block; apart from that of the assignments, which must not stand in line for them."""
        if self._reads is None:
            self._reads = self.store.blocking(BLOCK_MS / 1000, at_once=MOST_AT_ONCE)
        return self._reads

    def order(self, assignment: Assignment) -> Prompt:
        """That of a request, to be submitted."""
        return Prompt(self, assignment)

    async def close(self) -> None:
        """Close the connections."""
        if self._reads is not None:
            await self.store.done_with(self._reads)


class Prompt:
    """The request that reads the prompt of another one."""

    def __init__(self, prompts: Prompts, assignment: Assignment) -> None:
        self._prompts = prompts
        self._store = prompts.store
        self._pool = prompts.pool
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
            orders = [await self._request(each) for each in bodies]
            return await accept(self._store, self._pool, orders, LIMITS, owed=True)

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
            # It may have ended by the time that its place is heard of.
            places = [event for event in await self._next_events() if event.type != END]
            if places:
                return mapping(orjson.loads(data_of(places[0].payload)[0]))
        return None

    async def ended(self) -> Ending:
        """Wait until it has ended."""
        while self.ending is None:
            await self._next_events()
        return self.ending

    async def drop(self) -> None:
        """Nobody needs it any more. Without Redis its worker finds out by itself."""
        if self.ending is None:
            try:
                await cancel(self._store, self._pool, self._id)
            except (RedisError, OSError):
                return

    async def _next_events(self) -> list[Event]:
        """What has happened since the last time; none: nothing yet. ``ending`` is set if it has ended."""
        keys, backoff = self._store.keys.pool(self._pool), Backoff()
        while True:
            try:
                answer = await self._prompts.reads.xread({keys.output(self._id): self._last}, block=BLOCK_MS)
                # A failover may have lost it, with nobody left to end it.
                lost = not answer and not await self._store.commands.exists(keys.record(self._id))
                break
            except (RedisError, OSError):
                await backoff.pause()
        events: list[Event] = []
        for _, entry_id, fields in stream_entries(answer):
            self._last = entry_id.decode()
            events.append(read_log_entry(self._id, entry_id, fields or {}))
        for event in events:
            if event.type == END:
                self.ending = Ending.decode(event.payload)
        if lost:
            self.ending = _GONE
        return events
