"""The connections to the shared state, in three profiles that are never mixed (``topology`` makes the clients).

* commands: a short timeout and no blind retries; a step that may be repeated is repeated by ``Script``.
* blocking: for ``XREADGROUP … BLOCK``: its own connection, and a timeout behind that of the read.
* pub/sub: its own connection, no timeout; whoever listens says how long a silence may last.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from ..wire.keys import Keys
from .backoff import Backoff
from .cluster import ClusterClient
from .deadline import close_pools
from .settings import RedisSettings
from .topology import MOST_CONNECTIONS, make_client

log = logging.getLogger(__name__)

SERVER_CLOCK = "0"
"""Argument of a step that stands for the server's own clock."""

MINIMUM_SERVER = (7, 0)

_IN_SCRIPT = ("ACL failure in script", "The user executing the script can't")
"""How servers say that a script may not run a command; redis-py has no class for it."""

_OBJECT_ADDRESS = re.compile(r"0x[0-9a-f]+")
"""What differs at each try in what redis-py says of Sentinels."""


class StoreUnusable(Exception):
    """The server is there but must not be used as it is; the text says what to do."""


class StoreUnreachable(Exception):
    """The server does not answer, or takes no writes; the text says where it was looked for."""


class Store:
    """Connections to the server that holds the shared state, and the names under which it is kept."""

    def __init__(self, settings: RedisSettings, *, now: Callable[[], str] = lambda: SERVER_CLOCK) -> None:
        self.settings = settings
        self.keys = Keys(settings.namespace)
        self.now = now
        self.commands: Any = make_client(settings, deadline_s=settings.command_timeout_s)
        """Client for commands; all processes' ordinary calls go through it."""
        self.usable = asyncio.Event()
        """Set when a ``check`` has found nothing against the server."""
        self._others: list[Any] = []
        self._subscriber: Any = None
        self._closed = False

    def blocking(self, longest_s: float = 60.0, *, at_once: int = 1) -> Any:
        """A client for reads that block for at most so long (s), so many at once, closed by ``done_with`` or with the
        store.

        A server that has said nothing a while after that has gone without a word.
        """
        return self._another(deadline_s=longest_s + self.settings.command_timeout_s, connections=at_once)

    def _another(self, *, deadline_s: float | None, connections: int = MOST_CONNECTIONS) -> Any:
        if self._closed:
            raise ConnectionError("the connections to the server were closed")
        client = make_client(self.settings, deadline_s=deadline_s, connections=connections)
        self._others.append(client)
        return client

    async def done_with(self, client: Any) -> None:
        """Close a client that is not needed any more."""
        self._others.remove(client)
        await client.aclose()

    def subscriber(self) -> Any:
        """A client for subscriptions. In a cluster each call gives that of some other node: a plain PUBLISH reaches all
        of them, so any will do, and one that is gone is not asked for ever."""
        if self._subscriber is None:
            self._subscriber = self._another(deadline_s=None)
        if isinstance(self._subscriber, ClusterClient):
            assert isinstance(self.commands, ClusterClient)
            return self._subscriber.at(random.choice(self.commands.addresses))
        return self._subscriber

    async def node_of(self, key: str) -> Any:
        """A client of the very server that holds a key: for its clock, and for what has no key of its own."""
        return await self.commands.node_of(key) if isinstance(self.commands, ClusterClient) else self.commands

    async def servers(self) -> list[Any]:
        """A client of each server that holds keys."""
        return await self.commands.masters() if isinstance(self.commands, ClusterClient) else [self.commands]

    async def check(self, *, may_work: bool = False) -> None:
        """See that the server is there, takes writes, is new enough, and never evicts.

        Args:
            may_work: see as well that it lets us run the steps on our own keys, and publish: else a process would
                start, fail at everything, and try again for ever.

        Raises:
            StoreUnreachable: it does not answer, or is a replica: after a failover it may be a master in a moment.
            StoreUnusable: it does not let us in; or its version or ``maxmemory-policy`` would lose requests.
        """
        where = mask_password(self.settings.url)
        try:
            for server in await self.servers():
                _check(await server.info("server"), await server.info("memory"))
                _check_role(await server.info("replication"), where)
            if may_work:
                await self.commands.eval("return redis.call('EXISTS', KEYS[1])", 1, self.keys.pools())
                await self.commands.publish(self.keys.inbox("nobody"), b"")
        except (RedisError, OSError) as error:
            if advice := _advice(error):
                raise StoreUnusable(f"the server at {where} refuses us ({error}): {advice}") from error
            raise StoreUnreachable(f"no Redis at {where} ({error}): {_remedy(error, self.settings.url)}") from error
        self.usable.set()

    async def wait(self) -> None:
        """Wait until the server is there, and lets us work (see ``check``). Each reason for it is told once.

        Raises:
            StoreUnusable: it is there, and waiting does not make it any better.
        """
        backoff, told = Backoff(), set[str]()
        while True:
            try:
                await self.check(may_work=True)
                break
            except StoreUnreachable as error:
                reason = _OBJECT_ADDRESS.sub("", str(error))
                if reason not in told:
                    log.warning("%s; waiting for it", error)
                told.add(reason)
            await backoff.pause()
        if told:
            log.info("the server at %s is there", mask_password(self.settings.url))

    async def close(self) -> None:
        """Close every connection, for good: whoever asks for one after that gets a ``ConnectionError``."""
        self._closed = True
        await close_pools(pool for client in (*self._others, self.commands) for pool in client.retire())


def _advice(error: BaseException) -> str | None:
    """What to do about an error that no waiting cures; None: the server may be back in a moment."""
    match error:
        case AuthenticationError():
            return "put the user and the password of the server into --redis-url, as in redis://USER:PASSWORD@HOST"
        case ResponseError() if isinstance(error, NoPermissionError) or any(text in str(error) for text in _IN_SCRIPT):
            return "give its user the rights that docs/deploying-redis.md lists"
        case ResponseError() if "DB index" in str(error):
            return "put the number of a database that it has into --redis-url, as in redis://HOST/0"
        case _:
            # In a cluster every node is asked; the last one's error is the cause.
            return _advice(error.__cause__) if error.__cause__ else None


def _remedy(error: BaseException, url: str) -> str:
    """What may help where nothing answers that can be used."""
    if isinstance(error, InvalidResponse) or isinstance(error.__cause__, InvalidResponse):
        return "what answers there is no Redis: set --redis-url"
    if not url.startswith("rediss"):
        return "start one, or set --redis-url"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "set redis.tls_ca_file to the authority that signed its certificate, and see redis.tls_check_hostname"
    return "start one that speaks TLS, or set --redis-url (redis:// is without TLS)"


def _check(server: dict[str, Any], memory: dict[str, Any]) -> None:
    version = str(server.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_SERVER:
        raise StoreUnusable(f"the server speaks Redis {version}; 7.0 or newer (or Valkey 8) is needed")
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StoreUnusable(
            f"the server's maxmemory-policy is {policy}, which would throw requests away when memory runs out: "
            "run 'CONFIG SET maxmemory-policy noeviction' and put the same into its configuration"
        )


def _check_role(replication: dict[str, Any], where: str) -> None:
    if replication.get("role") != "master":
        master = f"{replication.get('master_host')}:{replication.get('master_port')}"
        raise StoreUnreachable(
            f"the server at {where} is a replica, of {master}, and takes no writes: "
            "set --redis-url to its master, or to the Sentinels that know it (redis+sentinel://)"
        )


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
