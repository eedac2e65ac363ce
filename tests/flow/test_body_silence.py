"""A body whose sender falls silent is waited for only so long."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import orjson
import pytest

from sagellm_control.gateway.metrics import open_requests

from ..waiting import wait_until
from .asking import CHAT_PATH, chat_bytes
from .conftest import StartEngine, StartSystem
from .in_process import InProcessSystem

SILENCE_S = 0.5
BODY = chat_bytes(max_tokens=1).ljust(600)


@pytest.fixture
async def system(start_engine: StartEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(await start_engine(), gateway_body_timeout_s=SILENCE_S)


@asynccontextmanager
async def _connection(url: str) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        async with asyncio.timeout(30):
            yield reader, writer
    finally:
        writer.close()


def _head(path: str, more: str = "Transfer-Encoding: chunked\r\n") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: gateway\r\n{more}\r\n".encode()


HALVES = {
    "a part of it": _head(CHAT_PATH, f"Content-Length: {len(BODY)}\r\n") + BODY[:300],
    "nothing of it": _head(CHAT_PATH, "Content-Length: 5\r\n"),
    "no last chunk": _head("/v1/embeddings") + b"2\r\n{}\r\n",
    "a part of a size": _head("/v1/completions") + b"2\r\n{}\r\n1",
    "of an admin": _head("/admin/set_policy", "Content-Length: 5\r\n") + b"{",
    "compressed": _head(CHAT_PATH, "Content-Encoding: gzip\r\nContent-Length: 500\r\n") + gzip.compress(BODY)[:30],
}


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES.keys())
async def test_its_sender_is_told_and_the_connection_closed(
    system: InProcessSystem, half: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with _connection(system.url) as (reader, writer):
        began = asyncio.get_running_loop().time()
        writer.write(half)
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        took = asyncio.get_running_loop().time() - began
    assert head.startswith("HTTP/1.1 408 "), head
    assert "Connection: close" in head
    error = orjson.loads(body)["error"]
    assert (error["code"], error["type"]) == ("body_timeout", "timeout_error")
    assert error["message"] == "Nothing of the body has come for 0.5 s, the gateway's --body-timeout-s."
    assert SILENCE_S <= took < 9, "the connection is not kept to read on"
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
    await wait_until(lambda: open_requests.number == 0, what="nobody waits for the rest")


async def test_one_that_comes_slowly_is_taken(start_engine: StartEngine, start_system: StartSystem) -> None:
    """All of it takes longer than the longest silence."""
    system = await start_system(await start_engine(), gateway_body_timeout_s=2)
    async with _connection(system.url) as (reader, writer):
        writer.write(_head(CHAT_PATH, f"Connection: close\r\nContent-Length: {len(BODY)}\r\n"))
        for at in range(0, len(BODY), 60):
            writer.write(BODY[at : at + 60])
            await asyncio.sleep(0.25)  # time is what this is about
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 "), answer
