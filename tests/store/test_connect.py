"""Store: which servers it refuses, what it says about one that is not there, and its connection profiles."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import redis.asyncio as redis
from pydantic import ValidationError
from redis.asyncio.cluster import RedisCluster

from sagellm_control.embedded import free_port
from sagellm_control.store.connect import Store, StoreUnreachable, StoreUnusable, mask_password, open_store
from sagellm_control.store.settings import RedisSettings


@pytest.fixture
async def maxmemory_policy(redis_url: str) -> AsyncGenerator[redis.Redis, None]:
    """The server, to set another policy on; set back afterwards."""
    async with redis.Redis.from_url(redis_url) as client:
        yield client
        await client.config_set("maxmemory-policy", "noeviction")


async def test_a_server_that_can_be_used(redis_settings: RedisSettings) -> None:
    async with open_store(redis_settings) as store:
        assert await store.commands.ping()
        assert store.keys.namespace == redis_settings.namespace


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_would_evict(
    maxmemory_policy: redis.Redis, redis_settings: RedisSettings, policy: str
) -> None:
    await maxmemory_policy.config_set("maxmemory-policy", policy)
    with pytest.raises(StoreUnusable, match=rf"{policy}.*CONFIG SET maxmemory-policy noeviction"):
        async with open_store(redis_settings):
            pass


@pytest.mark.parametrize(("version", "usable"), [("6.2.14", False), ("7.0.0", True), ("10.1", True)])
async def test_a_server_that_is_too_old(store: Store, version: str, usable: bool) -> None:
    class Server:
        async def info(self, section: str) -> dict[str, str]:
            return {"redis_version": version} if section == "server" else {}

    real, store.commands = store.commands, Server()
    try:
        if usable:
            await store.check()
        else:
            with pytest.raises(StoreUnusable, match=r"6\.2\.14.*7\.0 or newer"):
                await store.check()
    finally:
        store.commands = real


async def test_a_server_that_is_not_there() -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    with pytest.raises(StoreUnreachable, match="--redis-url") as raised:
        async with open_store(RedisSettings(url=url)):
            pass
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1", "redis://127.0.0.1:port", "redis://127.0.0.1/database"])
async def test_an_address_that_makes_no_sense(url: str) -> None:
    with pytest.raises((StoreUnusable, StoreUnreachable), match=r"redis.url|no Redis") as raised:
        async with open_store(RedisSettings(url=url)):
            pass
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("namespace", ["", "a:b", "a{b}", "a b", "x" * 41])
def test_a_namespace_that_would_break_keys(namespace: str) -> None:
    with pytest.raises(ValidationError):
        RedisSettings(namespace=namespace)


def test_a_setting_that_does_not_exist() -> None:
    with pytest.raises(ValidationError, match="colour"):
        RedisSettings.model_validate({"colour": "red"})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:pw@h:1/0", "redis://:***@h:1/0"),
        ("redis://user:pw@h:1/0", "redis://user:***@h:1/0"),
        ("redis+cluster://u:pw@a:1,b:2", "redis+cluster://u:***@a:1,b:2"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    assert mask_password(url) == shown


async def test_commands_time_out_and_are_not_repeated_but_blocking_reads_wait(redis_settings: RedisSettings) -> None:
    async with open_store(redis_settings.model_copy(update={"command_timeout_s": 0.25})) as store:
        commands = store.commands.connection_pool.connection_kwargs
        blocking = store.blocking().connection_pool.connection_kwargs
        assert (commands["socket_timeout"], blocking["socket_timeout"]) == (0.25, None)
        for options in (commands, blocking):
            assert options["retry"]._retries == 0
            assert not options.get("retry_on_error")


async def test_a_password_with_special_characters_is_decoded() -> None:
    store = Store(RedisSettings(url="redis+sentinel://user:p%40ss@127.0.0.1:1/main/2"))
    options = store.commands.connection_pool.connection_kwargs
    assert (options["username"], options["password"], options["db"]) == ("user", "p@ss", 2)
    await store.close()


async def test_a_cluster_by_its_url() -> None:
    store = Store(RedisSettings(url="redis+cluster://127.0.0.1:7001,127.0.0.1:7002"))
    assert isinstance(store.commands, RedisCluster)
    nodes = {(node.host, node.port) for node in store.commands.nodes_manager.startup_nodes.values()}
    assert nodes == {("127.0.0.1", 7001), ("127.0.0.1", 7002)}
    # A plain PUBLISH reaches every node, so the subscription is on one.
    async with store.pubsub() as subscription:
        assert subscription.connection_pool.connection_kwargs["port"] == 7001
    await store.close()
