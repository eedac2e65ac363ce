"""Places held through the shared queue, for callers that run their requests themselves.

A wish is a request of the kind ``reservation``: it is ranked and placed like any other, and the worker of its engine
holds the place until it is cancelled, or until this manager is not heard of any more.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field

import orjson
from redis.exceptions import RedisError

from ..client import QueueClient, Submission
from ..engine_access import data_of
from ..types import EngineState, SchedulingDecision
from ..wire.event import CHUNK, Ending
from ..wire.states import RequestState
from .as_json import printable
from .backend import (
    ASKED_AGAIN_S,
    TOO_LATE,
    Job,
    RequestFailed,
    Wish,
    no_engine,
    queued,
    refused,
    reservation_kind,
    unserved,
)
from .board import room_of
from .decision_wait import decided_within
from .failures import unavailable
from .shared_engines import SharedEngines
from .shared_run import submitted

LOOK_EVERY_S = 0.02
"""How soon a wish that waits is told so."""
LONGEST_LOOK_S = 2.0
NEW_ENGINE_S = 1.0
"""So soon schedulers know of an engine that has just got its worker: a wish for it is not told before that it waits."""
UNKNOWN_SERVICE_MS = 1000.0
STOPPED = "The manager was stopped"


@dataclass(eq=False)
class SharedWish:
    """A wish in the queue."""

    wish: Wish
    submission: Submission
    until: float
    """Loop time at which the wish's own deadline passes."""
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    decided_at: float = 0.0
    """Loop time at which its engine was heard of."""
    engine_id: str | None = None
    failure: str = ""
    follower: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None


class SharedWishes:
    """The wishes of one manager, on one connection."""

    def __init__(self, queue: QueueClient, engines: SharedEngines) -> None:
        self._queue = queue
        self._engines = engines
        self._closed = False
        self._waiting: dict[str, SharedWish] = {}
        self._held: dict[tuple[str, str], list[SharedWish]] = {}
        """By request and engine; programs may use an id twice."""

    async def schedule(self, wish: Wish) -> SchedulingDecision:
        """See ``Backend.schedule``."""
        reservation, least_s = self._waiting.get(wish.request_id), 0.0
        if reservation is None:
            promised = self._engines.promised
            if promised.awaited(wish.model):
                least_s = NEW_ENGINE_S
                try:
                    await promised.served(wish.model, None if wish.deadline_ms is None else wish.deadline_ms / 1000)
                except TimeoutError:
                    return refused(wish.request_id, TOO_LATE)
            if not await self._served(wish.model):
                return unserved(wish)
            try:
                reservation = await self._submit(wish)
            except RequestFailed as failure:
                return refused(wish.request_id, str(failure))
        return await self._told(reservation, LONGEST_LOOK_S, least_s)

    async def wait(self, request_id: str, timeout_s: float | None) -> SchedulingDecision | None:
        """See ``Backend.wait``."""
        reservation = self._waiting.get(request_id)
        if reservation is None:
            return None

        def keep() -> bool:
            if here := self._waiting.get(request_id) is reservation:
                self._keep(reservation)
            return here

        if not await decided_within(reservation.decided, timeout_s, keep):
            return None
        return await self._told(reservation, 0.0)

    def complete(self, request_id: str, engine_id: str) -> None:
        """See ``Backend.complete``."""
        held = self._held.get((request_id, engine_id))
        if held:
            self._engines.note_held(engine_id, -1)
            self._end(held.pop())
            if not held:
                del self._held[request_id, engine_id]
        elif (waiting := self._waiting.get(request_id)) is not None and waiting.engine_id in (None, engine_id):
            self._end(waiting)

    async def close(self) -> None:
        """Give everything back; those that still wait are told."""
        self._closed = True
        reservations = [*self._waiting.values(), *(item for held in self._held.values() for item in held)]
        followers = [item.follower for item in reservations if item.follower is not None]
        for reservation in reservations:
            self._end(reservation)
            reservation.engine_id, reservation.failure = None, STOPPED
            reservation.decided.set()
        self._held.clear()
        if followers:
            await asyncio.wait(followers)

    async def _served(self, model: str) -> bool:
        def ready() -> bool:
            return any(info.state == EngineState.READY for info in self._engines.board.of_model(model))

        if not ready():
            await self._engines.refresh(self._queue.store)
        return ready()

    async def _submit(self, wish: Wish) -> SharedWish:
        job = Job(
            f"place-{secrets.token_hex(8)}",
            printable(wish.trace_id or ""),
            wish.model,
            reservation_kind(wish),
            orjson.dumps({"holder": self._engines.manager_id, "request": printable(wish.request_id)}),
            priority=wish.priority,
            slo_ms=int(wish.deadline_ms or 0),
            prompt_tokens=wish.prompt_tokens,
            max_tokens=wish.max_tokens,
        )
        submission = await submitted(self._queue, job)
        if self._closed:
            self._queue.withdraw(submission)
            raise unavailable(STOPPED)
        loop = asyncio.get_running_loop()
        until = float("inf") if wish.deadline_ms is None else loop.time() + wish.deadline_ms / 1000
        reservation = SharedWish(wish, submission, until)
        reservation.follower = asyncio.create_task(self._follow(reservation), name=f"follow {submission.request_id}")
        self._waiting[wish.request_id] = reservation
        self._keep(reservation)
        return reservation

    async def _told(self, reservation: SharedWish, patience_s: float, least_s: float = 0.0) -> SchedulingDecision:
        """The decision as it stands; waits until there is one, or until the wish is known to wait, yet ``least_s``."""
        try:
            return await self._decision(reservation, patience_s, least_s)
        except (RedisError, OSError):
            self._end(reservation)  # its caller hears that it has failed, and does not come for it
            raise

    async def _decision(self, reservation: SharedWish, patience_s: float, least_s: float) -> SchedulingDecision:
        loop = asyncio.get_running_loop()
        began = loop.time()
        waits = False
        while not reservation.decided.is_set() and not waits:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await reservation.decided.wait()
            except TimeoutError:
                looked_s = loop.time() - began
                waits = looked_s >= patience_s or (looked_s >= least_s and await self._waits(reservation))
        if reservation.decided.is_set():
            if reservation.engine_id is None:
                self._drop(reservation)
                return refused(reservation.wish.request_id, reservation.failure)
            words = self._engines.board.words_for(reservation.engine_id, otherwise="by the scheduler")
            self._collect(reservation, reservation.engine_id)
            reason = f"Routed to {reservation.engine_id} ({words})"
            return SchedulingDecision(reservation.wish.request_id, reservation.engine_id, reason=reason)
        self._keep(reservation)
        position = await self._position(reservation)
        return queued(reservation.wish, position, self._wait_ms(reservation, position))

    async def _waits(self, reservation: SharedWish) -> bool:
        store, submission = self._queue.store, reservation.submission
        record = store.keys.pool(submission.pool).record(submission.request_id)
        return await store.commands.hget(record, "state") == RequestState.WAITING.encode()

    async def _position(self, reservation: SharedWish) -> int:
        store, submission = self._queue.store, reservation.submission
        rank = await store.commands.zrank(store.keys.pool(submission.pool).waiting, submission.request_id)
        return 1 if rank is None else int(rank) + 1

    def _wait_ms(self, reservation: SharedWish, position: int) -> float:
        rate = self._queue.pools.drain_rate(reservation.submission.pool)
        if rate > 0:
            return position / rate * 1000
        engines = self._engines.board.of_model(reservation.wish.model)
        places = sum(room_of(info) for info in engines if info.state == EngineState.READY)
        return position * UNKNOWN_SERVICE_MS / max(1, places)

    async def _follow(self, reservation: SharedWish) -> None:
        async for event in self._queue.stream(reservation.submission.request_id):
            if event.type == CHUNK:
                reservation.engine_id = orjson.loads(next(iter(data_of(event.payload))))["engine"]
                reservation.decided_at = asyncio.get_running_loop().time()
            else:
                ending = Ending.decode(event.payload)
                reservation.engine_id = None
                reservation.failure = reservation.failure or ending.message or no_engine(reservation.wish.model)
            reservation.decided.set()

    def _collect(self, reservation: SharedWish, engine_id: str) -> None:
        self._drop(reservation)
        self._held.setdefault((reservation.wish.request_id, engine_id), []).append(reservation)
        self._engines.note_held(engine_id, 1, since=reservation.decided_at)

    def _keep(self, reservation: SharedWish) -> None:
        loop = asyncio.get_running_loop()
        if reservation.timer is not None:
            reservation.timer.cancel()
        reservation.timer = loop.call_at(min(loop.time() + ASKED_AGAIN_S, reservation.until), self._expire, reservation)

    def _expire(self, reservation: SharedWish) -> None:
        late = asyncio.get_running_loop().time() >= reservation.until
        if not late or reservation.decided.is_set():
            self._end(reservation)  # its caller has not come for it
            return
        reservation.failure = TOO_LATE
        reservation.until = float("inf")
        self._queue.withdraw(reservation.submission)
        reservation.decided.set()
        self._keep(reservation)

    def _end(self, reservation: SharedWish) -> None:
        self._drop(reservation)
        if reservation.follower is not None:
            reservation.follower.cancel()
        self._queue.withdraw(reservation.submission)

    def _drop(self, reservation: SharedWish) -> None:
        if reservation.timer is not None:
            reservation.timer.cancel()
        if self._waiting.get(reservation.wish.request_id) is reservation:
            del self._waiting[reservation.wish.request_id]
