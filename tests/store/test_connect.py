"""The connections: deadlines and cancellations."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError, RedisError

from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.store.cluster import ClusterClient
from sagellm_control.store.connect import Store, StoreUnusable, mask_password, open_store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.topology import MOST_CONNECTIONS

from ..cluster_group import ask_server
from ..servers import Backend, make_server, server_binary


async def test_a_cancelled_command_is_always_cancelled(store: Store) -> None:
    """Whichever step of it the cancellation meets: a loop that is to end must not go on."""
    steps = 0
    while True:
        command = asyncio.create_task(store.commands.get("nothing"))
        for _ in range(steps):
            await asyncio.sleep(0)
        if command.done():
            break
        command.cancel()
        with pytest.raises(asyncio.CancelledError):
            await command
        steps += 1
    assert steps > 2


async def test_a_command_has_a_deadline(redis_settings: RedisSettings) -> None:
    """A server that takes the connection and says nothing."""
    answered = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answered.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = Store(RedisSettings(url=f"redis://127.0.0.1:{port}/0", command_timeout_s=0.1, connect_timeout_s=0.1))
    try:
        with pytest.raises((RedisError, TimeoutError)):
            await store.commands.get("nothing")
    finally:
        answered.set()
        await store.close()
        server.close()


async def test_a_burst_waits_for_connections_in_line(store: Store) -> None:
    """Who is cancelled while it waits, or in the middle of a command, takes no connection with it."""
    server = await store.node_of("a")
    for _ in range(2):
        pings = [asyncio.create_task(server.ping()) for _ in range(5 * MOST_CONNECTIONS)]
        await asyncio.sleep(0)
        for ping in pings[::3]:
            ping.cancel()
        results = await asyncio.gather(*pings, return_exceptions=True)
        assert all(result is True for i, result in enumerate(results) if i % 3)
    pool = server.connection_pool
    assert len(pool._available_connections) <= MOST_CONNECTIONS
    assert not pool._in_use_connections


async def test_who_gets_no_connection_in_time_is_told(redis_settings: RedisSettings) -> None:
    store = Store(redis_settings.model_copy(update={"command_timeout_s": 0.2}))
    try:
        server = await store.node_of("a")
        pool = server.connection_pool
        taken = [await pool.get_connection() for _ in range(MOST_CONNECTIONS)]
        with pytest.raises(ConnectionError, match="No connection available"):
            await server.ping()
        for connection in taken:
            await pool.release(connection)
        assert await server.ping()
    finally:
        await store.close()


async def test_closing_closes_a_connection_that_is_just_being_made(redis_settings: RedisSettings) -> None:
    """Whichever step of it the closing meets: only the garbage collector would find what is left open."""
    steps, in_time = 0, False
    while not in_time:
        store = Store(redis_settings)
        command = asyncio.create_task(store.commands.get("nothing"))
        for _ in range(steps):
            await asyncio.sleep(0)
        in_time = command.done()
        await store.close()
        (result,) = await asyncio.gather(command, return_exceptions=True)
        assert result is None if in_time else isinstance(result, ConnectionError | None)
        assert not any(connection.is_connected for connection in connections_of(store.commands))
        steps += 1
    assert steps > 2


async def test_closing_that_is_cancelled_closes_all_the_same(redis_settings: RedisSettings) -> None:
    steps, in_time = 1, False
    while not in_time:
        store = Store(redis_settings)
        reader = store.blocking()
        await asyncio.gather(*(client.ping() for client in (store.commands, reader, store.commands, reader)))
        closing = asyncio.create_task(store.close())
        for _ in range(steps):
            await asyncio.sleep(0)
        in_time = not closing.cancel()
        await asyncio.wait([closing])
        assert not any(c.is_connected for client in (reader, store.commands) for c in connections_of(client))
        steps += 1


async def test_a_closed_store_connects_to_nothing(redis_settings: RedisSettings) -> None:
    store = Store(redis_settings)
    reader = store.blocking()
    subscription = store.subscriber().pubsub()
    assert await store.commands.ping()
    assert await reader.ping()
    await store.close()
    for client in (store.commands, reader):
        with pytest.raises(ConnectionError, match="closed"):
            await client.ping()
    with pytest.raises(ConnectionError, match="closed"):
        await subscription.subscribe("anything")
    with pytest.raises(ConnectionError, match="closed"):
        store.blocking()
    await store.close()  # a second time does no harm


def connections_of(client: Any) -> list[Any]:
    """Every connection that a client has made."""
    if isinstance(client, ClusterClient):
        return [connection for node in client._clients.values() for connection in connections_of(node)]
    pool = client.connection_pool
    return [*pool._available_connections, *pool._in_use_connections]


def test_passwords_are_masked() -> None:
    assert mask_password("redis://user:secret@host:6379/0") == "redis://user:***@host:6379/0"
    assert mask_password("redis://host:6379/0") == "redis://host:6379/0"


@pytest.fixture
async def locked(backend: Backend) -> AsyncGenerator[EmbeddedValkey, None]:
    """A server that asks for a password."""
    async with make_server(backend) as server:
        await ask_server(server.port, "ACL", "SETUSER", "poor", "on", ">secret", "~*", "+ping")
        await ask_server(server.port, "CONFIG", "SET", "requirepass", "secret")
        yield server


LOGIN = "put the user and the password of the server into --redis-url"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://127.0.0.1:PORT", LOGIN),
        ("redis://:wrong@127.0.0.1:PORT", LOGIN),
        ("redis://nobody:secret@127.0.0.1:PORT", LOGIN),
        ("redis+cluster://:wrong@127.0.0.1:PORT", LOGIN),
        ("redis://poor:secret@127.0.0.1:PORT", "the rights"),
        ("redis://:secret@127.0.0.1:PORT/99", "the number of a database"),
    ],
)
async def test_settings_that_no_waiting_makes_right_are_told_at_the_start(
    locked: EmbeddedValkey, url: str, says: str
) -> None:
    store = Store(RedisSettings(url=url.replace("PORT", str(locked.port))))
    try:
        async with asyncio.timeout(20):
            with pytest.raises(StoreUnusable, match=says) as told:
                await store.wait()
        assert not re.search(":wrong|secret", str(told.value))
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://127.0.0.1:6379/abc", "'abc' is no number of a database"),
        ("redis://127.0.0.1:6379/1/2", "'1/2' is no number of a database"),
        ("redis://127.0.0.1:6379/-1", "'-1' is no number of a database"),
        ("redis://127.0.0.1:6379/?db=x", "db"),
        ("redis+sentinel://127.0.0.1:26379/mymaster/abc", "'abc' is no number of a database"),
        ("redis+cluster://127.0.0.1:6379/abc", "'abc' is no number of a database"),
        ("redis+cluster://127.0.0.1:6379/3", "a cluster has no database but 0"),
    ],
)
async def test_a_database_that_is_none_is_refused_before_anything_is_sent(url: str, says: str) -> None:
    with pytest.raises(StoreUnusable, match=re.escape(says)):
        async with open_store(RedisSettings(url=url), check=False):
            pytest.fail("it was taken")


@pytest.mark.parametrize("path", ["", "/", "/0", "/7", "/7/"])
def test_the_database_is_the_path(path: str) -> None:
    store = Store(RedisSettings(url=f"redis://127.0.0.1:6379{path}"))
    assert store.commands.connection_pool.connection_kwargs.get("db", 0) == int(path.strip("/") or 0)


async def test_a_connection_that_was_cut_as_its_answer_came_is_not_asked_again(store: Store) -> None:
    """What is late is cut by a timer, which may go off in the very turn in which the answer comes."""
    server = await store.node_of("a")
    await server.ping()
    for connection in server.connection_pool._available_connections:
        connection._writer.transport.abort()  # and nobody has been told of that yet
    assert await server.ping()


async def test_a_unix_socket(backend: Backend, tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    server = EmbeddedValkey(persist=False, binary=server_binary(backend), options={"unixsocket": str(socket)})
    async with server, open_store(RedisSettings(url=f"unix://{socket}")) as store:
        await store.commands.set("here", "1")
        assert await ask_server(server.port, "GET", "here") == b"1"
