"""The state of a control plane that lives in Redis, and is shared with other managers, gateways and workers.

Requests go through the queue: schedulers place them and the engines' workers run them. An engine that is registered
here is a registration, until a worker that adopts serves it; the manager's board is a copy of what is in Redis.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from ..client import QueueClient
from ..scheduler.order import ORDERS
from ..store.settings import RedisSettings
from ..store.steps.accept import AcceptLimits
from ..types import EngineInfo, EngineState, SchedulingDecision
from .backend import Job, Piece, Reply, Wish
from .board import EngineBoard, kv_tokens_of, room_of
from .engine_adapters import EngineAdapters
from .load import Misses
from .orders import Chooses, Handicaps
from .settings import ManagerSettings
from .shared_engines import SharedEngines
from .shared_run import SharedRun
from .shared_wishes import SharedWishes

log = logging.getLogger(__name__)


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
        self.settings = settings
        self.misses = Misses()
        self.id = secrets.token_hex(6)
        """Of this manager: what it holds is given back when it is not heard of any more."""
        self.recorded = _recorded(policy, strategy)
        """What the schedulers of the pools are told to follow."""
        self.adapters = EngineAdapters(trust_env=settings.trust_env, instances=instances)
        self._redis = redis
        self._stack: AsyncExitStack | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connecting = asyncio.Lock()
        self._queue: QueueClient | None = None
        self.engines = SharedEngines(self)
        self._wishes = SharedWishes(self)

    @property
    def queue(self) -> QueueClient:
        """The connection; there is one once ``connected`` has returned."""
        assert self._queue is not None
        return self._queue

    async def start(self) -> None:
        await self.connected()

    async def stop(self) -> None:
        await self._wishes.close()
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()
        self._queue = None
        await self.adapters.close()

    async def connected(self) -> QueueClient:
        """The connection, made if there is none on this event loop; all that was registered before is written.

        Raises:
            StoreUnreachable, StoreUnusable: see ``store.connect``.
        """
        if self._queue is None or self._loop is not asyncio.get_running_loop():
            async with self._lock():
                if self._queue is None:
                    await self._connect()
        await self.engines.flush()
        return self.queue

    def _lock(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._queue, self._connecting = loop, None, asyncio.Lock()
        return self._connecting

    async def _connect(self) -> None:
        async with AsyncExitStack() as stack:
            limits = AcceptLimits(max_waiting=self.settings.max_waiting)
            self._queue = await stack.enter_async_context(QueueClient.connect(self._redis, limits))
            await self.engines.flush()
            await self.engines.refresh()
            await stack.enter_async_context(self.engines.followed())
            self._stack = stack.pop_all()

    def register(self, info: EngineInfo) -> None:
        self.adapters.check(info)
        room_of(info)
        kv_tokens_of(info)
        self.engines.register(info)

    def unregister(self, info: EngineInfo) -> None:
        self.adapters.forget(info.engine_id)
        self.engines.unregister(info)

    def set_state(self, info: EngineInfo, state: EngineState) -> None:
        self.engines.set_state(info, state)

    async def schedule(self, wish: Wish) -> SchedulingDecision:
        await self.connected()
        return await self._wishes.schedule(wish)

    async def wait(self, request_id: str, timeout_s: float | None) -> SchedulingDecision | None:
        await self.connected()
        return await self._wishes.wait(request_id, timeout_s)

    def complete(self, request_id: str, engine_id: str) -> None:
        self._wishes.complete(request_id, engine_id)

    def waiting(self, model: str) -> tuple[int, float]:
        if self._queue is None:
            return 0, 0.0
        pools = self._queue.pools
        depth = next((depth for depth in pools.depths if depth.pool == model), None)
        waiting = depth.waiting + sum(depth.queued.values()) if depth is not None else 0
        rate = pools.drain_rate(model)
        return waiting, (waiting + 1) / rate * 1000 if waiting and rate > 0 else 0.0

    async def ask(self, job: Job) -> Reply:
        await self.connected()
        return await SharedRun(self.queue, job).ask()

    async def stream(self, job: Job) -> AsyncGenerator[Piece, None]:
        await self.connected()
        async for piece in SharedRun(self.queue, job).stream():
            yield piece


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
