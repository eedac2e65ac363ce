"""Wishes within this process: places that callers hold by request id, and callers that wait for one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..types import EngineInfo, RequestStatus, SchedulingDecision
from ..wire.request import Arrival
from .backend import Wish, no_engine, refused
from .local_queue import ModelQueue, Waiter

ASKED_AGAIN_S = 60.0
"""A caller that waits is expected to ask again within this; a place that is held for it is then given on."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A wish that has no engine yet, or whose caller has not come for it."""

    wish: Wish
    queue: ModelQueue
    waiter: Waiter
    decided: asyncio.Event
    until: float
    """Loop time at which the wish's own deadline passes."""
    engine_id: str | None = None
    failure: str = ""
    timer: asyncio.TimerHandle | None = None


class Reservations:
    """Who holds a place on which engine, by the ids that ``schedule_request`` was given."""

    def __init__(self, engines: dict[str, EngineInfo]) -> None:
        self._engines = engines
        self._held: dict[str, dict[str, int]] = {}
        """Engine -> request -> places; programs may use an id twice."""
        self._waiting: dict[str, Waiting] = {}

    def hold(self, engine_id: str, request_id: str) -> None:
        """The request has taken a place."""
        held = self._held.get(engine_id)
        if held is None:
            held = self._held[engine_id] = {}
        held[request_id] = held.get(request_id, 0) + 1

    def release(self, engine_id: str, request_id: str) -> bool:
        """The request gives its place back; False: it holds none."""
        held = self._held.get(engine_id)
        places = held.get(request_id, 0) if held else 0
        if held is None or not places:
            return False
        if places == 1:
            del held[request_id]
        else:
            held[request_id] = places - 1
        return True

    def forget_engine(self, engine_id: str) -> None:
        """The engine has gone; what is completed on it from now on is ignored."""
        self._held.pop(engine_id, None)

    def find(self, request_id: str) -> Waiting | None:
        """The wish of this id, if it waits."""
        return self._waiting.get(request_id)

    def wait(self, wish: Wish, queue: ModelQueue, arrival: Arrival) -> Waiting:
        """Stand in line."""
        loop = asyncio.get_running_loop()
        until = float("inf") if wish.deadline_ms is None else loop.time() + max(0.0, wish.deadline_ms) / 1000
        waiter = Waiter(arrival, lambda engine_id: self._grant(waiting, engine_id))
        waiting = Waiting(wish, queue, waiter, asyncio.Event(), until)
        self._waiting[wish.request_id] = waiting
        self.keep(waiting)
        queue.wait(waiting.waiter)
        return waiting

    def keep(self, waiting: Waiting) -> None:
        """Its caller has asked: keep it for another while."""
        loop = asyncio.get_running_loop()
        if waiting.timer is not None:
            waiting.timer.cancel()
        at = min(loop.time() + ASKED_AGAIN_S, waiting.until)
        waiting.timer = loop.call_at(at, self._expire, waiting)

    def collect(self, waiting: Waiting) -> None:
        """Its caller has the decision."""
        self._drop(waiting)
        if waiting.engine_id is not None:
            self.hold(waiting.engine_id, waiting.wish.request_id)

    def leave(self, waiting: Waiting) -> None:
        """Its caller does not want it any more."""
        self._drop(waiting)
        waiting.queue.leave(waiting.waiter)
        if waiting.engine_id is not None and (info := self._engines.get(waiting.engine_id)):
            waiting.queue.give_back(info)

    def decision(self, waiting: Waiting) -> SchedulingDecision:
        """What its caller is told now."""
        request_id = waiting.wish.request_id
        if waiting.failure:
            return refused(request_id, waiting.failure)
        if waiting.engine_id is not None:
            return SchedulingDecision(request_id, waiting.engine_id, reason=f"Routed to {waiting.engine_id} (waited)")
        position = waiting.queue.position(waiting.waiter)
        return SchedulingDecision(
            request_id,
            None,
            queue_position=position,
            estimated_wait_ms=waiting.queue.wait_ms(position),
            status=RequestStatus.QUEUED,
            reason=f"All engines of model {waiting.wish.model} are full",
        )

    def close(self) -> None:
        """Nobody waits any more."""
        for waiting in list(self._waiting.values()):
            self.leave(waiting)

    def _grant(self, waiting: Waiting, engine_id: str | None) -> None:
        if engine_id is None:
            self._fail(waiting, no_engine(waiting.wish.model))
            return
        waiting.engine_id = engine_id
        waiting.decided.set()

    def _expire(self, waiting: Waiting) -> None:
        late = asyncio.get_running_loop().time() >= waiting.until
        if late and waiting.engine_id is None:
            self._fail(waiting, "The deadline passed while it waited")
        else:
            self.leave(waiting)  # its caller has not asked for a while

    def _fail(self, waiting: Waiting, reason: str) -> None:
        waiting.queue.leave(waiting.waiter)
        if waiting.failure:
            self._drop(waiting)
            return
        waiting.failure = reason
        waiting.until = float("inf")
        waiting.decided.set()
        self.keep(waiting)

    def _drop(self, waiting: Waiting) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
        if self._waiting.get(waiting.wish.request_id) is waiting:
            del self._waiting[waiting.wish.request_id]
