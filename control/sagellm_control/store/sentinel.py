"""Connections that go to whichever server the Sentinels call the master at the moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.asyncio.sentinel import Sentinel

from .deadline import close_pools


class FollowsMaster:
    """Mixin for redis-py's connections: each time one is made, the Sentinels are asked where to."""

    make_sentinels: Any
    service: str

    async def _connect(self) -> None:
        # It is seldom that they are asked, so no connections to them are kept.
        sentinels = type(self).make_sentinels()
        try:
            self.host, self.port = await sentinels.discover_master(self.service)
        finally:
            await close_pools(client.connection_pool for client in sentinels.sentinels)
        await super()._connect()  # pyright: ignore[reportAttributeAccessIssue]


def to_master(connection_class: Any, make_sentinels: Callable[[], Sentinel], service: str) -> Any:
    """The class of connections to the master of a service."""
    bases = (FollowsMaster, connection_class)
    return type(
        f"Master{connection_class.__name__}",
        bases,
        {"make_sentinels": staticmethod(make_sentinels), "service": service},
    )
