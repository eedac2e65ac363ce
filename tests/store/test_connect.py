"""The connections: deadlines and cancellations."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ConnectionError, RedisError

from sagellm_control.store.connect import Store, mask_password
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.topology import MOST_CONNECTIONS


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
    for _ in range(2):
        pings = [asyncio.create_task(store.commands.ping()) for _ in range(5 * MOST_CONNECTIONS)]
        await asyncio.sleep(0)
        for ping in pings[::3]:
            ping.cancel()
        results = await asyncio.gather(*pings, return_exceptions=True)
        assert all(result is True for i, result in enumerate(results) if i % 3)
    pool = store.commands.connection_pool
    assert len(pool._available_connections) <= MOST_CONNECTIONS
    assert not pool._in_use_connections


async def test_who_gets_no_connection_in_time_is_told(redis_settings: RedisSettings) -> None:
    store = Store(redis_settings.model_copy(update={"command_timeout_s": 0.2}))
    try:
        pool = store.commands.connection_pool
        taken = [await pool.get_connection() for _ in range(MOST_CONNECTIONS)]
        with pytest.raises(ConnectionError, match="No connection available"):
            await store.commands.ping()
        for connection in taken:
            await pool.release(connection)
        assert await store.commands.ping()
    finally:
        await store.close()


def test_passwords_are_masked() -> None:
    assert mask_password("redis://user:secret@host:6379/0") == "redis://user:***@host:6379/0"
    assert mask_password("redis://host:6379/0") == "redis://host:6379/0"
