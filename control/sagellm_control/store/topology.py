"""Makes clients for each topology (one server, Sentinel, Cluster) from the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from .cluster import Address, ClusterClient
from .deadline import with_deadline
from .one_server import OneServer, OneServerPool
from .sentinel import to_master
from .settings import RedisSettings

MOST_CONNECTIONS = 32
"""Commands of one process under way at once on one server, which runs them one after another anyway."""
SCHEMES = ("redis", "rediss", "unix", *(f"{r}+{t}" for r in ("redis", "rediss") for t in ("sentinel", "cluster")))


def make_client(settings: RedisSettings, *, deadline_s: float | None, connections: int = MOST_CONNECTIONS) -> Any:
    """A client; nothing is sent yet.

    Args:
        deadline_s: longest wait for the answer to a command; None: for ever.
        connections: most to one server; each command needs one until it is answered.

    Raises:
        ValueError: the URL cannot be used.
    """
    parts = urlsplit(settings.url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {parts.scheme!r}; use one of {', '.join(SCHEMES)}")
    tls, _, topology = parts.scheme.partition("+")
    secured = tls == "rediss"
    options = _options(settings) | (_tls(settings) if secured else {})
    # A burst of calls waits for a connection instead of opening one each.
    limits: dict[str, Any] = {"max_connections": connections, "timeout": settings.command_timeout_s}
    login: dict[str, Any] = {
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
    }
    kind: Any = SSLConnection if secured else Connection
    if topology == "cluster":

        def connect(address: Address) -> Any:
            where: dict[str, Any] = {"host": address.host, "port": address.port}
            return _client(OneServerPool(connection_class=kind, **where, **limits, **options, **login), deadline_s)

        if _database(parts.path):
            raise ValueError("a cluster has no database but 0")
        try_again_s = settings.command_timeout_s
        return ClusterClient(_addresses(parts.netloc, 6379), connect, try_again_s=try_again_s)
    if topology == "sentinel":
        service, _, database = parts.path.strip("/").partition("/")
        places = _addresses(parts.netloc, 26379)
        to = to_master(kind, lambda: _sentinels(settings, places, secured), service or "mymaster")
        where: dict[str, Any] = {"host": "", "port": 0, "db": _database(database)}
        pool = OneServerPool(connection_class=to, **where, **limits, **options, **login)
    else:
        if tls == "unix":
            del options["socket_keepalive"]
        else:
            _database(parts.path)  # redis-py takes one that it cannot read for 0
        pool = OneServerPool.from_url(settings.url, **limits, **options)
    return _client(pool, deadline_s)


def _database(path: str) -> int:
    text = path.strip("/")
    if text and not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!r} is no number of a database")
    return int(text or 0)


def _client(pool: Any, deadline_s: float | None) -> Any:
    with_deadline(pool, deadline_s)
    return OneServer.from_pool(pool)


def _options(settings: RedisSettings) -> dict[str, Any]:
    return {
        "socket_timeout": None,
        "socket_connect_timeout": settings.connect_timeout_s,
        "socket_keepalive": True,
        # redis-py 8 retries ten times by default: a lost reply would run a command again behind our back.
        "retry": Retry(NoBackoff(), 0),
    }


def _tls(settings: RedisSettings) -> dict[str, Any]:
    return {
        "ssl_ca_certs": str(settings.tls_ca_file) if settings.tls_ca_file else None,
        "ssl_certfile": str(settings.tls_cert_file) if settings.tls_cert_file else None,
        "ssl_keyfile": str(settings.tls_key_file) if settings.tls_key_file else None,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": settings.tls_check_hostname,
    }


def _sentinels(settings: RedisSettings, addresses: Sequence[Address], secured: bool) -> Sentinel:
    options = _options(settings) | (_tls(settings) | {"ssl": True} if secured else {})
    sentinels = Sentinel(
        addresses,
        sentinel_kwargs={
            "username": settings.sentinel_username,
            "password": settings.sentinel_password,
            **options,
        },
    )
    for client in sentinels.sentinels:
        # They are close and answer from memory: one that is silent for so long is asked in vain.
        with_deadline(client.connection_pool, settings.connect_timeout_s)
    return sentinels


def _addresses(netloc: str, default_port: int) -> list[Address]:
    found: list[Address] = []
    for place in netloc.rpartition("@")[2].split(","):
        host, port = place, ""
        if not place.endswith("]") and ":" in place:
            host, _, port = place.rpartition(":")
        found.append(Address(host.strip("[]"), int(port or default_port)))
    return found
