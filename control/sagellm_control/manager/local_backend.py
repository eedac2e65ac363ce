"""The state of a control plane that lives in this process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..engine_access import EngineError
from ..lifecycle import CHECK_TIMEOUT_S, EngineLifecycleManager
from ..manager_settings import ManagerSettings
from ..types import EngineInfo, EngineState, SchedulingDecision
from ..wire.request import Arrival
from .backend import Job, Piece, Reply, Wish, refused, reservation_kind, unserved
from .board import LEAST_LOADED, EngineBoard, kv_tokens_of, room_of
from .decision_wait import decided_within
from .engine_adapters import EngineAdapters
from .load import Misses
from .local_policy import LocalPolicy
from .local_queue import ModelQueue
from .local_run import LocalRun
from .local_wishes import LocalWish, LocalWishes
from .orders import Chooses, Handicaps, make_policy, make_strategy

log = logging.getLogger(__name__)

NO_ENGINE_GRACE_S = 10.0
"""Those that wait when the last engine goes are told so after this, unless one has come back."""


class LocalBackend:
    """A line a model, places by request id, and runs on the engines' own wires."""

    def __init__(
        self, policy: str | Handicaps, strategy: str | Chooses, settings: ManagerSettings, *, instances: bool
    ) -> None:
        self.board = EngineBoard()
        self.adapters = EngineAdapters(trust_env=settings.trust_env, instances=instances)
        self.lifecycle: EngineLifecycleManager | None = None
        self.settings = settings
        self.misses = Misses()
        self._policy = policy
        self._strategy = strategy
        self._placement_words = make_strategy(strategy).name.replace("_", " ")
        self._queues: dict[str, ModelQueue] = {}
        self._queue_of: dict[str, ModelQueue] = {}
        """By engine."""
        self._wishes = LocalWishes(self.board.engines)

    async def start(self) -> None:
        if self.lifecycle is not None:
            return
        self.adapters.keep()
        self.lifecycle = AdapterLifecycle(self.settings, self.adapters)
        for info in self.board.engines.values():
            self.lifecycle.register(info)
        await self.lifecycle.start()

    async def stop(self) -> None:
        lifecycle, self.lifecycle = self.lifecycle, None
        if lifecycle is not None:
            await lifecycle.stop()
        await self.adapters.close()

    def register(self, info: EngineInfo) -> None:
        self.adapters.check(info)
        room, kv_tokens = room_of(info, self.settings.max_concurrent_requests), kv_tokens_of(info)
        if (info.metadata or {}).get("pre_verified_healthy"):
            info.state = EngineState.READY
        queue = self._queues.get(info.model_id)
        if queue is None:
            # An order may remember what it has seen of a model, so that each has its own.
            policy = LocalPolicy(make_policy(self._policy), make_strategy(self._strategy))
            queue = self._queues[info.model_id] = ModelQueue(info.model_id, policy, self.misses, self._tidy)
        self._queue_of[info.engine_id] = queue
        queue.add(info, room, kv_tokens)
        if self.lifecycle is not None:
            self.lifecycle.register(info)

    def unregister(self, info: EngineInfo) -> None:
        if self.lifecycle is not None:
            self.lifecycle.unregister(info.engine_id)
        self._queue_of.pop(info.engine_id).remove(info)
        self._wishes.forget_engine(info.engine_id)
        self.adapters.forget(info.engine_id)

    def set_state(self, info: EngineInfo, state: EngineState) -> None:
        info.state = state

    # Wishes

    async def schedule(self, wish: Wish) -> SchedulingDecision:
        waiting = self._wishes.find(wish.request_id)
        if waiting is None:
            queue = self._queues.get(wish.model)
            arrival = _arrival(wish)
            if queue is None or not queue.serves(arrival):
                return unserved(wish)
            ticket = queue.ticket(arrival)
            engine_id = queue.take(ticket)
            if engine_id is not None:
                words = self._placement_words
                if words != LEAST_LOADED and queue.was_least_loaded(engine_id, arrival):
                    words = LEAST_LOADED
                self._wishes.hold(engine_id, ticket)
                return SchedulingDecision(wish.request_id, engine_id, reason=f"Routed to {engine_id} ({words})")
            if len(queue) >= self.settings.max_waiting:
                return refused(wish.request_id, f"The queue of model {wish.model} is full: {len(queue)} requests wait")
            waiting = self._wishes.wait(wish, queue, ticket)
        return self._told(waiting)

    async def wait(self, request_id: str, timeout_s: float | None) -> SchedulingDecision | None:
        waiting = self._wishes.find(request_id)
        if waiting is None:
            return None

        def keep() -> bool:
            if here := self._wishes.find(request_id) is waiting:
                self._wishes.keep(waiting)
            return here

        return self._told(waiting) if await decided_within(waiting.decided, timeout_s, keep) else None

    def complete(self, request_id: str, engine_id: str) -> None:
        info = self.board.engines.get(engine_id)
        if info is not None and (ticket := self._wishes.release(engine_id, request_id)) is not None:
            self._queue_of[engine_id].give_back(info, ticket)
        elif (waiting := self._wishes.find(request_id)) is not None and waiting.engine_id in (None, engine_id):
            self._wishes.leave(waiting)

    def _told(self, waiting: LocalWish) -> SchedulingDecision:
        decision = self._wishes.decision(waiting)
        if waiting.decided.is_set():
            self._wishes.collect(waiting)
        else:
            self._wishes.keep(waiting)
        return decision

    def waiting(self, model: str) -> tuple[int, float]:
        queue = self._queues.get(model)
        return (len(queue), queue.wait_ms(len(queue) + 1) if len(queue) else 0.0) if queue is not None else (0, 0.0)

    def in_force(self) -> dict[str, str]:
        return {}

    # Requests

    async def ask(self, job: Job) -> Reply:
        async with self.adapters.used():
            return await self._run(job).ask()

    async def stream(self, job: Job) -> AsyncGenerator[Piece, None]:
        async with self.adapters.used(), aclosing(self._run(job).stream()) as pieces:
            async for piece in pieces:
                yield piece

    def _run(self, job: Job) -> LocalRun:
        return LocalRun(job, self._queues.get(job.model), self.adapters, self.settings, self._suspect)

    def _suspect(self, engine_id: str) -> None:
        if self.lifecycle is not None:
            self.lifecycle.suspect(engine_id)

    def _tidy(self, queue: ModelQueue) -> None:
        """What to do about a line whose engines may all have gone."""
        if len(queue) and not queue.any_ready:
            try:
                asyncio.get_running_loop().call_later(NO_ENGINE_GRACE_S, self._give_up, queue)
            except RuntimeError:  # called outside of the loop
                self._give_up(queue)
        elif queue.empty and self._queues.get(queue.model) is queue:
            del self._queues[queue.model]

    def _give_up(self, queue: ModelQueue) -> None:
        if not queue.any_ready:
            queue.dismiss()
            self._tidy(queue)


def _arrival(wish: Wish) -> Arrival:
    return Arrival(
        wish.request_id,
        wish.priority,
        time.time() * 1000,
        kind=reservation_kind(wish),
        slo_ms=int(wish.deadline_ms or 0),
        prompt_tokens=wish.prompt_tokens,
        max_tokens=wish.max_tokens,
    )


class AdapterLifecycle(EngineLifecycleManager):
    """Probes each engine on the wire that it speaks, and so finds out which that is."""

    def __init__(self, settings: ManagerSettings, adapters: EngineAdapters) -> None:
        super().__init__(settings.health_check_interval_s, settings.max_consecutive_failures)
        self._adapters = adapters

    async def check_health(self, engine: EngineInfo) -> bool:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return await (await self._adapters.find(engine)).healthy()
        except (EngineError, OSError):
            return False
        except Exception as error:  # an address that is none
            log.debug("engine %s: it cannot be probed: %r", engine.engine_id, error)
            return False
