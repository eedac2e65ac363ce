"""What the tests of faults share: engines, a server of the test's own, and a proxy in front of the shared one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sagellm_control.client import presence
from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.keeper import orphans
from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings

from ..clock import Clock
from ..flow.conftest import start_engine as start_engine
from ..pool_driver import PoolDriver
from ..servers import Backend, Topology, server_binary
from .tcp_proxy import TcpProxy, tcp_proxy


@pytest.fixture
def topology() -> Topology:
    """One server: a proxy stands in front of one address."""
    return Topology.STANDALONE


@pytest.fixture
async def proxy(redis_url: str) -> AsyncGenerator[TcpProxy, None]:
    """In front of the server of this test."""
    async with tcp_proxy(urlsplit(redis_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
def proxied(redis_settings: RedisSettings, proxy: TcpProxy) -> RedisSettings:
    """The test's namespace, reached through the proxy; impatient, so that no test waits for long."""
    return redis_settings.model_copy(
        update={"url": f"redis://127.0.0.1:{proxy.port}/0", "command_timeout_s": 1.0, "connect_timeout_s": 1.0}
    )


@pytest.fixture
async def proxied_pool(proxied: RedisSettings, pool: PoolDriver, clock: Clock) -> AsyncGenerator[PoolDriver, None]:
    """The same pool as ``pool``, reached through the proxy."""
    store = Store(proxied, now=clock)
    yield replace(pool, store=store)
    await store.close()


@pytest.fixture
async def server(tmp_path: Path, backend: Backend) -> AsyncGenerator[EmbeddedValkey, None]:
    """A server of the test's own, which keeps what it is told through a crash."""
    options = {"appendfsync": "always", "enable-protected-configs": "yes"}
    async with EmbeddedValkey(tmp_path / "server", options=options, binary=server_binary(backend)) as server:
        yield server


@pytest.fixture
def short_gateway_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway's lease lapses after a second without a word of it, and keepers look for such all the time."""
    monkeypatch.setattr(presence, "LEASE_S", 1.0)
    monkeypatch.setattr(presence, "ANNOUNCE_EVERY_S", 0.3)
    monkeypatch.setattr(orphans, "LOOK_EVERY_S", 0.02)
