"""Bodies over the limit are refused before they are read whole; so are those that cannot be decoded."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import orjson
import pytest

from sagellm_control.gateway.metrics import open_requests

from ..waiting import wait_until
from .asking import CHAT_PATH, chat_bytes, error_of
from .conftest import SimulatedEngine, StartEngine, StartSystem
from .in_process import InProcessSystem

LIMIT = 2048
HEAD = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def engine(start_engine: StartEngine) -> SimulatedEngine:
    return await start_engine()


@pytest.fixture
async def system(engine: SimulatedEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(engine, gateway_max_body_bytes=LIMIT)


@asynccontextmanager
async def _connection(url: str) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _refusal(reader: asyncio.StreamReader) -> None:
    """Reads a 413."""
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"Content-Length: (\d+)", head)
        assert length is not None, head
        body = await reader.readexactly(int(length[1]))
    assert head.startswith("HTTP/1.1 413 "), head
    assert "Connection: close" in head
    error = orjson.loads(body)["error"]
    assert error["code"] == "body_too_large"
    assert str(LIMIT) in error["message"]


@pytest.mark.parametrize("more", ["", "Expect: 100-continue\r\n"])
async def test_a_content_length_over_the_limit_is_refused_before_any_body(system: InProcessSystem, more: str) -> None:
    async with _connection(system.url) as (reader, writer):
        writer.write(f"{HEAD}{more}Content-Length: {10**9}\r\n\r\n".encode())
        await _refusal(reader)


async def test_a_chunked_body_is_refused_as_soon_as_it_is_over_the_limit(system: InProcessSystem) -> None:
    async with _connection(system.url) as (reader, writer):
        writer.write(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        # And no end: who waits for the whole body waits for ever.
        writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
        writer.write(b"800\r\n" + b" " * 2048 + b"\r\n")
        await _refusal(reader)


async def test_nothing_of_it_reaches_the_queue(engine: SimulatedEngine, system: InProcessSystem) -> None:
    async with system.session.post(system.url + CHAT_PATH, data=b" " * (LIMIT + 1)) as response:
        assert response.status == 413
    assert (await engine.state())["total_requests"] == 0
    assert await system.store.commands.hget(system.store.keys.pool("simulated-1").counters, "accepted") is None


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_limit_itself_is_allowed(system: InProcessSystem, chunked: bool) -> None:
    body = chat_bytes(max_tokens=1).ljust(LIMIT)

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield body[:100]
        yield body[100:]

    async with system.session.post(system.url + CHAT_PATH, data=pieces() if chunked else body) as response:
        assert response.status == 200, await response.text()


async def test_a_compressed_body(system: InProcessSystem, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    path = system.url + CHAT_PATH
    async with system.session.post(path, data=gzip.compress(chat_bytes(max_tokens=1)), headers=headers) as response:
        assert response.status == 200
    async with system.session.post(path, data=gzip.compress(b" " * (LIMIT + 1)), headers=headers) as response:
        assert response.status == 413
    async with system.session.post(path, data=b"no gzip", headers=headers) as response:
        assert response.status == 400
        error = await error_of(response)
    assert (error["code"], error["message"]) == (
        "invalid_body",
        "The body cannot be read: Can not decode content-encoding: gzip.",
    )
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_body_that_is_no_http_from_its_middle_on_is_answered(system: InProcessSystem) -> None:
    """Not waited for: what does not come in one piece with its head is refused while a handler reads the body."""
    async with _connection(system.url) as (reader, writer):
        writer.write(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n".encode())
        await wait_until(lambda: open_requests.number == 1, what="its body is read")
        writer.write(b'{"no":"chunk"}')
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 400 "), head
    await wait_until(lambda: open_requests.number == 0, what="nobody waits for the rest")
