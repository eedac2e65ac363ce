"""What every test can have: a real server, a namespace of its own on it, and a clock that it moves by hand."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings

from .clock import Clock
from .cluster_group import ClusterServers, cluster_servers
from .leaks import delete_namespace, leaked_keys
from .pool_driver import PoolDriver
from .sentinel_group import SentinelServers, sentinel_servers
from .servers import (
    SERVER_VARIABLE,
    TOPOLOGY_VARIABLE,
    Backend,
    ServerMissing,
    Topology,
    chosen_backends,
    make_server,
)

# How long an example takes says more of the machine than of the code.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server",
        default=os.environ.get(SERVER_VARIABLE, Backend.VALKEY),
        help=f"server to run on: {', '.join(Backend)}, or all that can be had (default: {Backend.VALKEY}; "
        f"environment: {SERVER_VARIABLE})",
    )
    parser.addoption(
        "--topology",
        default=os.environ.get(TOPOLOGY_VARIABLE, Topology.STANDALONE),
        choices=[str(topology) for topology in Topology],
        help=f"how the servers are put together (default: {Topology.STANDALONE}; environment: {TOPOLOGY_VARIABLE})",
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"servers: {', '.join(_backends(config))}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", _backends(metafunc.config), ids=str)


def _backends(config: pytest.Config) -> list[Backend]:
    try:
        return chosen_backends(config.getoption("--server"))
    except (ServerMissing, ValueError) as error:
        raise pytest.UsageError(f"--server: {error}") from None


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def servers(request: pytest.FixtureRequest) -> AsyncGenerator[dict[Backend, EmbeddedValkey], None]:
    """One running server of each chosen kind, shared by all tests."""
    async with AsyncExitStack() as stack:
        yield {b: await stack.enter_async_context(make_server(b)) for b in _backends(request.config)}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sentinels(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[dict[Backend, SentinelServers], None]:
    """A master, a replica and three Sentinels of each chosen kind, shared by all tests that kill none of them."""
    async with AsyncExitStack() as stack:
        yield {
            b: await stack.enter_async_context(sentinel_servers(b, tmp_path_factory.mktemp(f"sentinels-{b}")))
            for b in _backends(request.config)
        }


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def clusters(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[dict[Backend, ClusterServers], None]:
    """A cluster of six of each chosen kind, shared by all tests that kill none of them."""
    async with AsyncExitStack() as stack:
        yield {
            b: await stack.enter_async_context(cluster_servers(b, tmp_path_factory.mktemp(f"cluster-{b}")))
            for b in _backends(request.config)
        }


@pytest.fixture
def topology(request: pytest.FixtureRequest) -> Topology:
    """How the servers of this test are put together."""
    return Topology(request.config.getoption("--topology"))


@pytest.fixture
def redis_url(request: pytest.FixtureRequest, backend: Backend, topology: Topology) -> str:
    """Where the server of this test is, or are; they are started when the first test asks for them."""
    match topology:
        case Topology.STANDALONE:
            return request.getfixturevalue("servers")[backend].url
        case Topology.SENTINEL:
            return request.getfixturevalue("sentinels")[backend].url
        case Topology.CLUSTER:
            return request.getfixturevalue("clusters")[backend].url


@pytest.fixture
async def redis_settings(redis_url: str) -> AsyncGenerator[RedisSettings, None]:
    """A namespace of the test's own. Afterwards each key in it must have a TTL or be permanent (see ``leaks``)."""
    settings = RedisSettings(url=redis_url, namespace=f"test-{secrets.token_hex(5)}")
    yield settings
    store = Store(settings)
    try:
        leaked = await leaked_keys(store)
        await delete_namespace(store)
    finally:
        await store.close()
    assert not leaked, f"these keys would stay for ever: {', '.join(leaked)}"


@pytest.fixture
def clock() -> Clock:
    """The time that the store's steps see; it stands still until it is moved."""
    return Clock()


@pytest.fixture
async def store(redis_settings: RedisSettings, clock: Clock) -> AsyncGenerator[Store, None]:
    """A store in the test's own namespace, on the test's own clock."""
    store = Store(redis_settings, now=clock)
    yield store
    await store.close()


@pytest.fixture
def pool(store: Store, clock: Clock) -> PoolDriver:
    """An empty pool, to be driven step by step. Its name is made up, so metrics labelled with it start at 0."""
    return PoolDriver(store, clock, f"model-{secrets.token_hex(3)}")
