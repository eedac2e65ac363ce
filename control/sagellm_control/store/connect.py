"""The one module that knows the topology (standalone, Sentinel, Cluster) and the three client profiles.

* commands: a short timeout and no blind retries; a step that may be repeated is repeated by ``Script``.
* blocking: for ``XREADGROUP … BLOCK``: no read timeout, its own connection.
* pub/sub: its own connection, no read timeout.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import redis.asyncio as redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ..wire.keys import Keys
from .deadline import with_deadline
from .settings import RedisSettings

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

SERVER_CLOCK = "0"
"""Argument of a step that stands for the server's own clock."""

MINIMUM_SERVER = (7, 0)

MOST_CONNECTIONS = 32
"""Commands of one process under way at once; the server runs them one after another anyway."""


class StoreUnusable(Exception):
    """The server is there but must not be used as it is; the text says what to do."""


class StoreUnreachable(Exception):
    """The server does not answer; the text says where it was looked for."""


class Store:
    """Connections to the server that holds the shared state, and the names under which it is kept."""

    def __init__(self, settings: RedisSettings, *, now: Callable[[], str] = lambda: SERVER_CLOCK) -> None:
        self.settings = settings
        self.keys = Keys(settings.namespace)
        self.now = now
        self.commands: Any = self._client(deadline_s=settings.command_timeout_s)
        """Client for commands; all processes' ordinary calls go through it."""
        self._others: list[Any] = []
        self._subscriber: Any = None

    def blocking(self) -> Any:
        """A client for blocking reads, closed by ``done_with`` or with the store."""
        client = self._client(deadline_s=None)
        self._others.append(client)
        return client

    async def done_with(self, client: Any) -> None:
        """Close a client that is not needed any more."""
        self._others.remove(client)
        await client.aclose()

    def pubsub(self) -> PubSub:
        """A subscription connection; the caller closes it."""
        if self._subscriber is None:
            self._subscriber = self._client(deadline_s=None, pubsub=True)
            self._others.append(self._subscriber)
        return self._subscriber.pubsub(ignore_subscribe_messages=False)

    async def check(self) -> None:
        """See that the server is there, new enough, and never evicts.

        Raises:
            StoreUnreachable: it does not answer.
            StoreUnusable: its version or ``maxmemory-policy`` would lose requests.
        """
        try:
            server: dict[str, Any] = await self._info("server")
            memory: dict[str, Any] = await self._info("memory")
        except (RedisError, OSError) as error:
            raise StoreUnreachable(
                f"no Redis at {mask_password(self.settings.url)} ({error}): start one, or set --redis-url"
            ) from error
        version = str(server.get("redis_version", "0"))
        if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_SERVER:
            raise StoreUnusable(f"the server speaks Redis {version}; 7.0 or newer (or Valkey 8) is needed")
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreUnusable(
                f"the server's maxmemory-policy is {policy}, which would throw requests away when memory runs out: "
                "run 'CONFIG SET maxmemory-policy noeviction' and put the same into its configuration"
            )

    async def _info(self, section: str) -> dict[str, Any]:
        if isinstance(self.commands, RedisCluster):
            return await self.commands.info(section, target_nodes=RedisCluster.RANDOM)
        return await self.commands.info(section)

    async def close(self) -> None:
        """Close every connection."""
        for client in (*self._others, self.commands):
            await client.aclose()

    def _client(self, *, deadline_s: float | None, pubsub: bool = False) -> Any:
        options: dict[str, Any] = {
            "socket_timeout": None,
            "socket_connect_timeout": self.settings.connect_timeout_s,
            "socket_keepalive": True,
            # redis-py 8 retries ten times by default: a lost reply would run a command again behind our back.
            "retry": Retry(NoBackoff(), 0),
        }
        parts = urlsplit(self.settings.url)
        login: dict[str, Any] = {
            "username": parts.username,
            "password": unquote(parts.password) if parts.password else None,
        }
        if parts.scheme == "redis+cluster":
            if not pubsub:
                options |= {"socket_timeout": deadline_s}
                options.pop("retry")
                nodes = [ClusterNode(host, port) for host, port in _addresses(parts.netloc, 6379)]
                cluster: Any = RedisCluster  # its type stubs call it abstract
                return cluster(startup_nodes=nodes, **options, **login)
            # A plain PUBLISH reaches every node of a cluster, so one node is enough to listen on.
            host, port = _addresses(parts.netloc, 6379)[0]
            client: Any = redis.Redis(host=host, port=port, **options, **login)
        elif parts.scheme == "redis+sentinel":
            name, _, database = parts.path.strip("/").partition("/")
            sentinel = Sentinel(_addresses(parts.netloc, 26379), socket_timeout=self.settings.connect_timeout_s)
            client = sentinel.master_for(name or "mymaster", db=int(database or 0), **options, **login)
        else:
            # A burst of calls waits for a connection instead of opening one each.
            wait_s = self.settings.command_timeout_s
            pool = redis.BlockingConnectionPool.from_url(
                self.settings.url, max_connections=MOST_CONNECTIONS, timeout=wait_s, **options
            )
            client = redis.Redis.from_pool(pool)
        if deadline_s is not None:
            with_deadline(client.connection_pool, deadline_s)
        return client


def _addresses(netloc: str, default_port: int) -> list[tuple[str, int]]:
    hosts = netloc.rpartition("@")[2].split(",")
    found: list[tuple[str, int]] = []
    for host in hosts:
        name, _, port = host.rpartition(":") if ":" in host else (host, "", "")
        found.append((name, int(port or default_port)))
    return found


def mask_password(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    return url.replace(f":{parts.password}@", ":***@", 1)


@asynccontextmanager
async def open_store(settings: RedisSettings, *, check: bool = True) -> AsyncGenerator[Store, None]:
    """A store that has been looked at (see ``Store.check``) and is closed at the end."""
    try:
        store = Store(settings)
    except (ValueError, RedisError) as error:
        raise StoreUnusable(f"redis.url {mask_password(settings.url)!r}: {error}") from error
    try:
        if check:
            await store.check()
        yield store
    finally:
        await store.close()
