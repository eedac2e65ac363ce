"""What the tests of topologies share: engines, and groups of servers that may be killed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from ..cluster_group import ClusterServers, cluster_servers
from ..flow.conftest import queue as queue
from ..flow.conftest import start_engine as start_engine
from ..flow.conftest import start_system as start_system
from ..sentinel_group import DOWN_AFTER_MS, SentinelServers, sentinel_servers
from ..servers import Backend


@pytest.fixture
async def doomed_cluster(backend: Backend, tmp_path: Path) -> AsyncGenerator[ClusterServers, None]:
    """A cluster of the test's own."""
    async with cluster_servers(backend, tmp_path) as servers:
        yield servers


@pytest.fixture
async def doomed_sentinels(backend: Backend, tmp_path: Path) -> AsyncGenerator[SentinelServers, None]:
    """A master, a replica and Sentinels of the test's own, quick to fail over."""
    async with sentinel_servers(backend, tmp_path, down_after_ms=DOWN_AFTER_MS) as servers:
        yield servers
