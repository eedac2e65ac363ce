"""A server that is not there, or is none: what is said of it, and how often."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from sagellm_control.embedded import EmbeddedValkey, free_port
from sagellm_control.gateway.process import serve_from
from sagellm_control.gateway.settings import GatewaySettings
from sagellm_control.store.connect import Store, StoreUnreachable, open_store
from sagellm_control.store.settings import RedisSettings

from ..servers import Backend, server_binary
from ..waiting import wait_until


async def test_who_waits_for_a_server_says_so_once(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = EmbeddedValkey(persist=False, port=free_port(), binary=server_binary(backend))
    store = Store(RedisSettings(url=server.url))
    tries, check = 0, store.check

    async def counted(**options: bool) -> None:
        nonlocal tries
        tries += 1
        await check(**options)

    monkeypatch.setattr(store, "check", counted)
    try:
        waiting = asyncio.create_task(store.wait())
        await wait_until(lambda: tries > 3)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert caplog.messages[0].endswith("start one, or set --redis-url; waiting for it")
        async with server:
            await waiting
        assert caplog.messages[-1] == f"the server at {server.url} is there"
    finally:
        await store.close()


async def test_a_replica_is_no_server_until_it_is_a_master(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        EmbeddedValkey(persist=False, binary=server_binary(backend)) as server,
        open_store(RedisSettings(url=server.url), check=False) as store,
        serve_from(GatewaySettings(port=0, shutdown_s=0.1), store, at_once=True) as url,
        aiohttp.ClientSession() as session,
    ):
        await store.commands.execute_command("REPLICAOF", "127.0.0.1", "1")
        waiting = asyncio.create_task(store.wait())
        await wait_until(lambda: caplog.messages, what="it is told")
        (said,) = caplog.messages
        assert f"the server at {server.url} is a replica, of 127.0.0.1:1, and takes no writes: set --redis-url" in said
        async with session.get(f"{url}/ready") as answer:
            assert answer.status == 503
        await store.commands.execute_command("REPLICAOF", "NO", "ONE")
        await waiting

        async def ready() -> bool:
            async with session.get(f"{url}/ready") as answer:
                return answer.status == 200

        await wait_until(ready, what="the gateway is ready")
        (said,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)


async def test_who_waits_says_each_reason_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Sentinel's errors tell which object had them, at each try another one."""
    caplog.set_level(logging.INFO)
    store = Store(RedisSettings())
    texts = ["refused", "no name", "refused", "<Retry at 0x7f7b29f1d690>", "<Retry at 0x7f7b29f1d6a0>"]

    async def check(**_options: bool) -> None:
        if texts:
            raise StoreUnreachable(texts.pop(0))

    monkeypatch.setattr(store, "check", check)
    await store.wait()
    told = [record.getMessage().partition(";")[0] for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ["refused", "no name", "<Retry at 0x7f7b29f1d690>"]
    await store.close()


@asynccontextmanager
async def saying(words: bytes) -> AsyncIterator[int]:
    """The port of a server that answers what it hears with that, and ends; if it is nothing, it stays silent."""
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(words)
        if not words:
            await over.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        over.set()
        server.close()


@pytest.mark.parametrize(
    ("scheme", "words", "says"),
    [
        ("redis", b"HTTP/1.1 400 Bad Request\r\n\r\n", "what answers there is no Redis: set --redis-url"),
        ("redis+sentinel", b"HTTP/1.1 400 Bad Request\r\n\r\n", "what answers there is no Redis: set --redis-url"),
        ("redis", b"", "start one, or set --redis-url"),
        ("rediss", b"", "start one that speaks TLS, or set --redis-url (redis:// is without TLS)"),
        ("rediss+cluster", b"", "start one that speaks TLS, or set --redis-url (redis:// is without TLS)"),
        ("rediss", b"-ERR what?\r\n", "start one that speaks TLS, or set --redis-url (redis:// is without TLS)"),
    ],
)
async def test_the_advice_fits_what_answers(scheme: str, words: bytes, says: str) -> None:
    async with saying(words) as port:
        settings = RedisSettings(url=f"{scheme}://127.0.0.1:{port}", connect_timeout_s=0.2, command_timeout_s=0.2)
        with pytest.raises(StoreUnreachable) as told:
            async with open_store(settings):
                pass
        assert str(told.value).endswith(f": {says}")
