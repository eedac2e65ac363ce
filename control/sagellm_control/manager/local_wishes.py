"""Wishes within this process: places that callers hold by request id, and callers that wait for one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..types import EngineInfo, SchedulingDecision
from .backend import ASKED_AGAIN_S, TOO_LATE, Wish, no_engine, queued, refused
from .line import Ticket
from .local_queue import ModelQueue


@dataclass(slots=True, eq=False)
class LocalWish:
    """A wish that has no engine yet, or whose caller has not come for it."""

    wish: Wish
    queue: ModelQueue
    ticket: Ticket
    decided: asyncio.Event
    until: float
    """Loop time at which the wish's own deadline passes."""
    engine_id: str | None = None
    failure: str = ""
    timer: asyncio.TimerHandle | None = None


class LocalWishes:
    """Who holds a place on which engine, by the ids that ``schedule_request`` was given."""

    def __init__(self, engines: dict[str, EngineInfo]) -> None:
        self._engines = engines
        self._held: dict[str, dict[str, Ticket | list[Ticket]]] = {}
        """Engine -> request -> who holds the place; several, where a program has used the id more than once."""
        self._waiting: dict[str, LocalWish] = {}

    def hold(self, engine_id: str, ticket: Ticket) -> None:
        """The request has taken a place."""
        held = self._held.get(engine_id)
        if held is None:
            held = self._held[engine_id] = {}
        before = held.setdefault(ticket.arrival.id, ticket)
        if before is not ticket:
            held[ticket.arrival.id] = [*before, ticket] if isinstance(before, list) else [before, ticket]

    def release(self, engine_id: str, request_id: str) -> Ticket | None:
        """The request gives its place back; None: it holds none."""
        held = self._held.get(engine_id)
        if held is None:
            return None
        found = held.pop(request_id, None)
        if not isinstance(found, list):
            return found
        if found[1:]:
            held[request_id] = found[1:]
        return found[0]

    def forget_engine(self, engine_id: str) -> None:
        """The engine has gone; what is completed on it from now on is ignored."""
        self._held.pop(engine_id, None)

    def find(self, request_id: str) -> LocalWish | None:
        """The wish of this id, if it waits."""
        return self._waiting.get(request_id)

    def wait(self, wish: Wish, queue: ModelQueue, ticket: Ticket) -> LocalWish:
        """Stand in line."""
        loop = asyncio.get_running_loop()
        until = float("inf") if wish.deadline_ms is None else loop.time() + max(0.0, wish.deadline_ms) / 1000
        waiting = LocalWish(wish, queue, ticket, asyncio.Event(), until)
        ticket.granted = lambda engine_id: self._grant(waiting, engine_id)
        self._waiting[wish.request_id] = waiting
        self.keep(waiting)
        queue.wait(waiting.ticket)
        return waiting

    def keep(self, waiting: LocalWish) -> None:
        """Its caller has asked: keep it for another while."""
        loop = asyncio.get_running_loop()
        if waiting.timer is not None:
            waiting.timer.cancel()
        at = min(loop.time() + ASKED_AGAIN_S, waiting.until)
        waiting.timer = loop.call_at(at, self._expire, waiting)

    def collect(self, waiting: LocalWish) -> None:
        """Its caller has the decision."""
        self._drop(waiting)
        if waiting.engine_id is not None:
            self.hold(waiting.engine_id, waiting.ticket)

    def leave(self, waiting: LocalWish) -> None:
        """Its caller does not want it any more."""
        self._drop(waiting)
        waiting.queue.leave(waiting.ticket)
        if waiting.engine_id is not None and (info := self._engines.get(waiting.engine_id)):
            waiting.queue.give_back(info, waiting.ticket)

    def decision(self, waiting: LocalWish) -> SchedulingDecision:
        """What its caller is told now."""
        request_id = waiting.wish.request_id
        if waiting.failure:
            return refused(request_id, waiting.failure)
        if waiting.engine_id is not None:
            return SchedulingDecision(request_id, waiting.engine_id, reason=f"Routed to {waiting.engine_id} (waited)")
        position = waiting.queue.position(waiting.ticket)
        return queued(waiting.wish, position, waiting.queue.wait_ms(position))

    def _grant(self, waiting: LocalWish, engine_id: str | None) -> None:
        if engine_id is None:
            self._fail(waiting, TOO_LATE if waiting.ticket.refused else no_engine(waiting.wish.model))
            return
        waiting.engine_id = engine_id
        waiting.decided.set()

    def _expire(self, waiting: LocalWish) -> None:
        late = asyncio.get_running_loop().time() >= waiting.until
        if late and waiting.engine_id is None:
            self._fail(waiting, TOO_LATE)
        else:
            self.leave(waiting)  # its caller has not asked for a while

    def _fail(self, waiting: LocalWish, reason: str) -> None:
        waiting.queue.leave(waiting.ticket)
        if waiting.failure:
            self._drop(waiting)
            return
        waiting.failure = reason
        waiting.until = float("inf")
        waiting.decided.set()
        self.keep(waiting)

    def _drop(self, waiting: LocalWish) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
        if self._waiting.get(waiting.wish.request_id) is waiting:
            del self._waiting[waiting.wish.request_id]
