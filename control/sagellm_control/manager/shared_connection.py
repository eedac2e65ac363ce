"""A manager's connection to the shared state, from its start to its stop."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack

from ..client import QueueClient
from ..store.settings import RedisSettings
from ..store.steps.accept import AcceptLimits
from .open_while_used import OpenWhileUsed
from .shared_engines import SharedEngines
from .shared_wishes import SharedWishes
from .sign_of_life import said_alive


class SharedConnection:
    """Watches the engines and holds places until it is closed; requests that are on their way then are finished."""

    def __init__(self, queue: QueueClient, wishes: SharedWishes, ends: AsyncExitStack, uses: OpenWhileUsed) -> None:
        self.queue = queue
        self.wishes = wishes
        self._ends = ends
        self._uses = uses

    @classmethod
    async def open(cls, redis: RedisSettings, limits: AcceptLimits, engines: SharedEngines) -> SharedConnection:
        """A connection; what has been said of engines is written, and the board is up to date.

        Raises:
            StoreUnreachable, StoreUnusable, QueueUnavailable: see ``QueueClient.connect``.
            RedisError, OSError: the connection was lost at once.
        """
        async with AsyncExitStack() as stack:
            queue = await stack.enter_async_context(QueueClient.connect(redis, limits))
            await engines.flush(queue.store)
            await engines.refresh(queue.store)
            uses = OpenWhileUsed(stack.pop_all().aclose)
        wishes, ends = SharedWishes(queue, engines), AsyncExitStack()
        ends.push_async_callback(uses.give_up)
        await ends.enter_async_context(said_alive(queue.store, engines.manager_id))
        await ends.enter_async_context(engines.followed(queue.store))
        ends.push_async_callback(wishes.close)
        return cls(queue, wishes, ends, uses)

    def used(self) -> AbstractAsyncContextManager[None]:
        """For a request: the connection stays open."""
        return self._uses.used()

    async def close(self) -> None:
        """Give the places back, watch no more, and close when nobody uses it any more."""
        await self._ends.aclose()
