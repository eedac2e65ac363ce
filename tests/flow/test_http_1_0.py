"""Clients of HTTP/1.0 that ask for their connection to be kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import pytest

from .asking import CHAT_PATH, chat_bytes
from .conftest import StartEngine, StartSystem
from .in_process import InProcessSystem

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def system(start_engine: StartEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(await start_engine())


@pytest.fixture
async def connection(system: InProcessSystem) -> AsyncGenerator[Connection, None]:
    parts = urlsplit(system.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    yield reader, writer
    writer.close()


def _asking(body: bytes) -> bytes:
    head = f"POST {CHAT_PATH} HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def test_a_stream_ends_with_its_connection(connection: Connection) -> None:
    """Nothing else says to such a client that it is over."""
    reader, writer = connection
    writer.write(_asking(chat_bytes(max_tokens=2, stream=True)))
    async with asyncio.timeout(20):
        answer = await reader.read()
    assert answer.endswith(b"data: [DONE]\n\n")
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"keep-alive" not in head
    assert b"chunked" not in head


@pytest.mark.parametrize("body", [chat_bytes(max_tokens=2), chat_bytes(stream=True, model="unknown")])
async def test_a_whole_answer_leaves_it_open(connection: Connection, body: bytes) -> None:
    reader, writer = connection
    for _ in range(2):
        writer.write(_asking(body))
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"Content-Length: (\d+)", head)
            assert length is not None, head
            await reader.readexactly(int(length[1]))
        assert "Connection: keep-alive" in head
