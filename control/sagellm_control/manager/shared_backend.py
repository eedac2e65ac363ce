"""The state of a control plane that lives in Redis, and is shared with other managers, gateways and workers.

Requests go through the queue: schedulers place them and the engines' workers run them. An engine that is registered
here is a registration, until a worker that adopts serves it; the manager's board is a copy of what is in Redis.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from redis.exceptions import RedisError

from ..client import QueueError
from ..manager_settings import ManagerSettings
from ..scheduler.order import DEFAULT_ORDER, ORDERS
from ..scheduler.placement import DEFAULT_PLACEMENT
from ..store.connect import StoreUnreachable, StoreUnusable
from ..store.settings import RedisSettings
from ..store.steps.accept import AcceptLimits
from ..types import EngineInfo, EngineState, SchedulingDecision
from .backend import Job, Piece, Reply, RequestFailed, Wish, refused
from .board import EngineBoard, kv_tokens_of, room_of
from .engine_adapters import EngineAdapters
from .failures import unavailable
from .load import Misses
from .orders import Chooses, Handicaps
from .shared_connection import SharedConnection
from .shared_engines import SharedEngines
from .shared_run import SharedRun

log = logging.getLogger(__name__)

TROUBLE = (RedisError, OSError, QueueError, StoreUnreachable, StoreUnusable)
"""What a call to the shared state may raise where that is away."""

_IN_STATUS = (("scheduling_policy", "policy", DEFAULT_ORDER), ("routing_strategy", "placement", DEFAULT_PLACEMENT))
"""Key in ``get_status``, field of a pool's settings, and what holds where a pool has none recorded."""


class SharedBackend:
    """Connects when it is started, or first used. Raises ValueError for what cannot be shared."""

    def __init__(
        self,
        redis: RedisSettings,
        settings: ManagerSettings,
        *,
        policy: str | Handicaps | None,
        strategy: str | Chooses | None,
        instances: bool,
    ) -> None:
        self.board = EngineBoard()
        self.misses = Misses()
        self._recorded = _recorded(policy, strategy)
        """What the schedulers of the pools are told to follow."""
        self.adapters = EngineAdapters(trust_env=settings.trust_env, instances=instances)
        self._redis = redis
        self._limits = AcceptLimits(max_waiting=settings.max_waiting)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connecting = asyncio.Lock()
        self._connection: SharedConnection | None = None
        """There is one from the first use to ``stop``."""
        manager_id = secrets.token_hex(6)  # what it holds is given back when it is not heard of any more
        self._engines = SharedEngines(
            manager_id, self.board, self.adapters, settings.max_concurrent_requests, self._recorded
        )

    async def start(self) -> None:
        """Raises StoreUnreachable, StoreUnusable: see ``store.connect``."""
        async with self._connected():
            pass

    async def stop(self) -> None:
        # Whoever connects again meanwhile does so when this has ended: one at a time follows the engines.
        async with self._lock():
            connection, self._connection = self._connection, None
            if connection is not None:
                await connection.close()
        await self.adapters.close()

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[SharedConnection, None]:
        """The connection, made if there is none on this event loop; all that was said before is written."""
        async with self._lock():
            if self._connection is None:
                self._connection = await SharedConnection.open(self._redis, self._limits, self._engines)
            connection = self._connection
        async with connection.used():
            await self._engines.flush(connection.queue.store)
            yield connection

    @asynccontextmanager
    async def _reached(self) -> AsyncGenerator[SharedConnection, None]:
        """The connection, for a request. Raises RequestFailed where the shared state is away, also in the middle."""
        try:
            async with self._connected() as connection:
                yield connection
        except TROUBLE as error:
            raise _away(error) from error

    def _lock(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._connection, self._connecting = loop, None, asyncio.Lock()
        return self._connecting

    def register(self, info: EngineInfo) -> None:
        self.adapters.check(info)
        room_of(info)
        kv_tokens_of(info)
        self._engines.register(info)

    def unregister(self, info: EngineInfo) -> None:
        self.adapters.forget(info.engine_id)
        self._engines.unregister(info)

    def set_state(self, info: EngineInfo, state: EngineState) -> None:
        self._engines.set_state(info, state)

    async def schedule(self, wish: Wish) -> SchedulingDecision:
        try:
            async with self._reached() as connection:
                return await connection.wishes.schedule(wish)
        except RequestFailed as failure:
            return refused(wish.request_id, str(failure))

    async def wait(self, request_id: str, timeout_s: float | None) -> SchedulingDecision | None:
        connection = self._connection
        if connection is None:
            return None  # nobody waits
        try:
            async with connection.used():
                return await connection.wishes.wait(request_id, timeout_s)
        except TROUBLE as error:
            return refused(request_id, str(_away(error)))

    def complete(self, request_id: str, engine_id: str) -> None:
        if self._connection is not None:  # else everything has been given back
            self._connection.wishes.complete(request_id, engine_id)

    def waiting(self, model: str) -> tuple[int, float]:
        if self._connection is None:
            return 0, 0.0
        pools = self._connection.queue.pools
        depth = next((depth for depth in pools.depths if depth.pool == model), None)
        waiting = depth.waiting + sum(depth.queued.values()) if depth is not None else 0
        rate = pools.drain_rate(model)
        return waiting, (waiting + 1) / rate * 1000 if waiting and rate > 0 else 0.0

    def in_force(self) -> dict[str, str]:
        pools = self._connection.queue.pools.depths if self._connection is not None else []
        models = self.board.models
        settings = [depth.settings for depth in pools if depth.pool in models]
        return {
            status: ", ".join(sorted({found.get(name) or self._recorded.get(name, default) for found in settings}))
            for status, name, default in _IN_STATUS
            if settings
        }

    async def ask(self, job: Job) -> Reply:
        async with self._reached() as connection:
            return await self._run(connection, job).ask()

    async def stream(self, job: Job) -> AsyncGenerator[Piece, None]:
        async with self._reached() as connection, aclosing(self._run(connection, job).stream()) as pieces:
            async for piece in pieces:
                yield piece

    def _run(self, connection: SharedConnection, job: Job) -> SharedRun:
        return SharedRun(connection.queue, job, self._engines.promised)


def _away(error: Exception) -> RequestFailed:
    return unavailable(f"The shared state is not available: {error}")


def _recorded(policy: str | Handicaps | None, strategy: str | Chooses | None) -> dict[str, str]:
    recorded: dict[str, str] = {}
    for name, value, argument in (("policy", policy, "scheduling_policy"), ("placement", strategy, "routing_strategy")):
        if value is None:
            continue
        if not isinstance(value, str):
            raise ValueError(f"{argument}: with shared state it must be a name that all schedulers know, not {value!r}")
        if name == "policy" and value not in ORDERS:
            raise ValueError(f"{argument} {value!r}: with shared state use one of {', '.join(ORDERS)}")
        recorded[name] = value
    return recorded
