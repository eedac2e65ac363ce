"""Where a waiting request stands in its line."""

from __future__ import annotations

from dataclasses import dataclass

from ..client.queue_client import QueueClient


@dataclass(slots=True, frozen=True)
class QueuePosition:
    """A request's place in the waiting set."""

    position: int
    """Requests ahead of it."""
    wait_s: float | None
    """How long those are expected to take, at the rate at which the pool drains now; None: nothing is known of it."""

    def text(self) -> str:
        """As it stands in an SSE comment."""
        return f" position={self.position}" + (f" wait_s={self.wait_s:g}" if self.wait_s is not None else "")


async def queue_position(queue: QueueClient, pool: str, request_id: str) -> QueuePosition | None:
    """The request's place; None: it does not wait (any more), or no scheduler has ranked it yet."""
    ahead = await queue.store.commands.zrank(queue.store.keys.pool(pool).waiting, request_id)
    if ahead is None:
        return None
    rate = queue.pools.drain_rate(pool)
    return QueuePosition(ahead, round((ahead + 1) / rate, 1) if rate > 0 else None)
