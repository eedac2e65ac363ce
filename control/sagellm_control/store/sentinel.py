"""Connections that go to whichever server the Sentinels call the master at the moment."""

from __future__ import annotations

from typing import Any

from redis.asyncio.sentinel import Sentinel


class FollowsMaster:
    """Mixin for redis-py's connections: each time one is made, the Sentinels are asked where to."""

    sentinels: Sentinel
    service: str

    async def _connect(self) -> None:
        try:
            self.host, self.port = await self.sentinels.discover_master(self.service)
        finally:
            # It will be long until they are asked again.
            for client in self.sentinels.sentinels:
                await client.connection_pool.disconnect(inuse_connections=False)
        await super()._connect()  # pyright: ignore[reportAttributeAccessIssue]


def to_master(connection_class: Any, sentinels: Sentinel, service: str) -> Any:
    """The class of connections to the master of a service."""
    bases = (FollowsMaster, connection_class)
    return type(f"Master{connection_class.__name__}", bases, {"sentinels": sentinels, "service": service})
