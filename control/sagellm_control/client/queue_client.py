"""Put a request through the queue: submit, stream, result, cancel."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Unpack

from redis.exceptions import RedisError

from ..store.connect import Store, open_store
from ..store.settings import RedisSettings
from ..store.steps.accept import AcceptLimits
from ..store.steps.attach import attach
from ..store.steps.cancel import CancelResult, cancel
from ..wire.event import CHUNK, END, Ending, Event, Position, read_position
from ..wire.priority import RequestPriority
from ..wire.request import NewRequest
from ..wire.states import Outcome, RequestKind
from ..wire.trace_context import NO_TRACE, TraceContext
from . import submit_arguments as arguments
from .abandoned import AbandonedRequests
from .acceptor import Acceptor, FastPath
from .answer import Answer
from .destination import destination
from .errors import QueueUnavailable, TooLate, UnknownRequest
from .held import HeldRequests
from .inbox import Inbox
from .pools import Pools
from .presence import Presence
from .resubmission import AwaitedReturn, Resubmission
from .scheduling_hints import SchedulingHints
from .submission import Result, Submission

IDLE_S = 5.0
"""A stream that hears nothing for so long looks into the output log."""
SUBSCRIBE_TIMEOUT_S = 5.0


class QueueClient:
    """A process's access to the queue. Safe to share among all its tasks.

        async with QueueClient.connect(RedisSettings(url="redis://…")) as queue:
            submission = await queue.submit("my-model", {"messages": […]}, stream=True)
            async for event in queue.stream(submission.request_id):
                …

    Raises ``QueueError`` (see ``client.errors``) where a request is not taken.
    """

    def __init__(self, store: Store, limits: AcceptLimits | None = None, *, fast_path: FastPath | None = None) -> None:
        self.store = store
        self.limits = limits or AcceptLimits()
        self.inbox = Inbox(store)
        self.pools = Pools(store)
        self._presence = Presence(store, self.inbox.channel, self.inbox.subscribed)
        self._abandoned = AbandonedRequests(store, self.inbox.pool_of)
        self._held = HeldRequests(store, self.limits)
        self._acceptor = Acceptor(store, self.limits, self.pools, self._abandoned, self._held, fast_path=fast_path)

    @classmethod
    @asynccontextmanager
    async def connect(cls, redis: RedisSettings, limits: AcceptLimits | None = None) -> AsyncGenerator[QueueClient]:
        """A client whose inbox is subscribed.

        Raises:
            StoreUnreachable, StoreUnusable: see ``store.connect``.
        """
        async with open_store(redis) as store:
            client = cls(store, limits)
            async with client.running():
                yield client

    @asynccontextmanager
    async def running(self, *, at_once: bool = False) -> AsyncGenerator[None, None]:
        """Listen on the inbox and watch the pools; nothing may be submitted outside of it.

        Args:
            at_once: do not wait until the inbox is subscribed, as Redis may be away; what is missed is read later. All
                that goes on by itself begins when the store has been found usable: whoever waits for that says why.
        """

        async def begin(part: Inbox | Pools | Presence) -> None:
            if at_once:
                await self.store.usable.wait()
            await part.run()

        parts = (self.inbox, self.pools, self._presence)
        loops = [asyncio.create_task(begin(part), name=type(part).__name__) for part in parts]
        try:
            if not at_once:
                await self._until_subscribed()
            async with self._abandoned, self._held:
                yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def _until_subscribed(self) -> None:
        try:
            async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S):
                await self.inbox.subscribed.wait()
        except TimeoutError as error:
            raise QueueUnavailable("the inbox could not be subscribed") from error

    async def submit(
        self,
        model: str,
        body: Mapping[str, Any] | bytes,
        *,
        kind: RequestKind | str = RequestKind.CHAT,
        request_id: str | None = None,
        id_is_new: bool = False,
        checked: bool = False,
        idempotent: bool = False,
        priority: RequestPriority | str | int = RequestPriority.NORMAL,
        tenant: str = "",
        stream: bool = False,
        timeout_s: float | None = None,
        slo_s: float | None = None,
        prompt_tokens: int = 0,
        max_tokens: int = 0,
        trace: TraceContext = NO_TRACE,
        continuable: bool = False,
        orphan_grace_s: float | None = None,
        **hints: Unpack[SchedulingHints],
    ) -> Submission:
        """Put a request into the queue.

        Args:
            model: a name that an engine answers to.
            body: the OpenAI request; as bytes it reaches the engine unchanged. A mapping gets ``model`` and
                ``stream`` filled in.
            kind: which of OpenAI's endpoints it is for, or that one's name.
            request_id: made up where it is not given.
            id_is_new: it was made up at random, so that no pool has a request of this id.
            checked: all of this is known to be what it should be, as a gateway has read it so.
            idempotent: a request of the same id, tenant and body is this one; its answer is given again.
            priority: the class, its name in any case, or its number.
            tenant: whose it is, for fair orders and bounds on tenants; empty: nobody's.
            stream: the engine is to answer with events, as the body asks for.
            timeout_s: seconds from now to the last byte.
            slo_s: objective for the first token (s).
            prompt_tokens: tokens of the prompt, estimated; 0: not known.
            max_tokens: most tokens of the answer; 0: no limit was given.
            trace: which trace it belongs to, for the engine.
            continuable: should its engine be lost in mid-stream, another may go on with the answer (see
                ``continuable.may_continue``); else the stream ends with an error.
            orphan_grace_s: cancel it when nobody has listened for so long; None: it goes on without.
            hints: see ``SchedulingHints``.

        Raises:
            UnknownModel, NoEngineReady, QueueFull, TooLate, QueueUnavailable.
            RequestConflict: another request has this id, of whichever model.
            ValueError, TypeError: an argument that is none; nothing has been sent.
        """
        if not checked:
            arguments.check(
                model, request_id, hints, tenant=tenant, trace=trace, prompt_tokens=prompt_tokens, max_tokens=max_tokens
            )
        urgency = priority if isinstance(priority, RequestPriority) else arguments.read_priority(priority)
        kind = kind if isinstance(kind, RequestKind) else arguments.read_kind(kind)
        body = body if isinstance(body, bytes) else arguments.read_body(body, model, stream)
        timeout_ms, slo_ms = arguments.milliseconds("timeout_s", timeout_s), arguments.milliseconds("slo_s", slo_s)
        orphan_grace_ms = arguments.milliseconds("orphan_grace_s", orphan_grace_s)
        given_id = None if id_is_new else request_id
        pool, known = await destination(self.pools, model, given_id, idempotent=idempotent)
        request = NewRequest(
            id=request_id or os.urandom(16).hex(),
            pool=pool,
            kind=kind,
            body=body,
            inbox=self.inbox.channel,
            ticket=os.urandom(4).hex(),
            priority=urgency,
            tenant=tenant,
            model="" if model == pool else model,
            stream=stream,
            timeout_ms=timeout_ms,
            slo_ms=slo_ms,
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            trace=trace,
            continuable=continuable,
            orphan_grace_ms=orphan_grace_ms,
            **hints,
        )
        if not known and self.pools.is_too_late(request):
            raise TooLate(model, self.pools.wait_s(pool, urgency), self.pools.retry_after_s(pool))
        if orphan_grace_s is not None:
            self._presence.begin()
        # Before the request is there, so that not even its first event can be missed.
        answer = Answer(self.store, pool, request.id)
        answer.accepted = False
        self.inbox.open(answer)
        try:
            existed = await self._acceptor.accept(request, model, idempotent=idempotent, anew=answer.begin_anew)
        except BaseException:
            self.inbox.close(answer)
            raise
        # Whoever sends a request again holds it as well as who sent it first.
        answer.lost_record = Resubmission(self.store, request, self.limits)
        if existed:
            answer.begin_anew()  # what has come since it was opened may be only the end
        answer.accepted = True
        return Submission(request.id, pool, existed)

    @asynccontextmanager
    async def answer(
        self, request_id: str, *, pool: str | None = None, after: Position | int | str = (0, 0)
    ) -> AsyncGenerator[Answer, None]:
        """The answer of a request, of this client or of any other, from a position on.

        Args:
            pool: where it is; None: it is looked for.
            after: see ``read_position``.

        Raises:
            ValueError: ``after`` is no position.
            UnknownRequest: there is none of this id, or its result has expired.
            RequestConflict: a request of this id in another pool is open here.
        """
        position = read_position(after)
        answer = self.inbox.find_unread(request_id, pool) if position == (0, 0) else None
        if answer is None:
            pool = pool or await self._pool_of(request_id)
            answer = Answer(self.store, pool, request_id, after=position)
            answer.read = True
            answer.lost_record = AwaitedReturn(self.store, pool, request_id, self.inbox.channel)
            self.inbox.open(answer)
            self._presence.begin()
            await attach(self.store, pool, request_id, self.inbox.channel)
            answer.check_log()
        answer.read = True
        try:
            yield answer
        finally:
            self.inbox.close(answer)

    async def stream(self, request_id: str, *, after: Position | int | str = (0, 0)) -> AsyncGenerator[Event, None]:
        """The events of a request behind a position (see ``read_position``), up to and with its end."""
        try:
            async with self.answer(request_id, after=after) as answer:
                while not answer.ended:
                    if (event := await answer.next(IDLE_S)) is not None:
                        yield event
        except (RedisError, OSError) as error:
            raise QueueUnavailable(error) from error

    async def result(self, request_id: str) -> Result:
        """The whole answer, once it is there."""
        pieces: list[bytes] = []
        async for event in self.stream(request_id):
            if event.type == CHUNK:
                pieces.append(event.payload)
            elif event.type == END:
                ending = Ending.decode(event.payload)
                return Result(replace(ending, body=b""), b"".join([*pieces, ending.body]))
        raise UnknownRequest(request_id)

    async def cancel(
        self, request_id: str, outcome: Outcome = Outcome.CANCELLED, *, pool: str | None = None
    ) -> CancelResult:
        """End a request, wherever it is; its events then end with that outcome.

        Args:
            pool: where it is; None: it is looked for.
        """
        try:
            pool = pool or await self._pool_of(request_id)
        except UnknownRequest:
            return CancelResult.UNKNOWN
        return await cancel(self.store, pool, request_id, outcome)

    def abandon(self, submission: Submission, *, patient: bool = False) -> None:
        """Cancel a request that nobody here waits for any more, unless somebody does elsewhere; Redis may be away.

        Args:
            patient: only if nobody comes back for it within its ``orphan_grace_s``.
        """
        if self.inbox.pool_of(submission.request_id) is None:
            self._abandoned.add(submission.pool, submission.request_id, self.inbox.channel, patient=patient)

    def withdraw(self, submission: Submission) -> None:
        """Cancel a request, whoever waits for it, without waiting for that; Redis may be away meanwhile."""
        self._abandoned.add(submission.pool, submission.request_id)

    async def _pool_of(self, request_id: str) -> str:
        if pool := self.inbox.pool_of(request_id):
            return pool
        await self.pools.look()
        if pools := await self.pools.with_request(request_id):
            return pools[0]
        raise UnknownRequest(request_id)
