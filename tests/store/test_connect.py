"""The connections: deadlines and cancellations."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import RedisError

from sagellm_control.store.connect import Store, mask_password
from sagellm_control.store.settings import RedisSettings


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


def test_passwords_are_masked() -> None:
    assert mask_password("redis://user:secret@host:6379/0") == "redis://user:***@host:6379/0"
    assert mask_password("redis://host:6379/0") == "redis://host:6379/0"
