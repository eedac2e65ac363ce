"""Answers that break off, are no HTTP, or do not end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest

from sagellm_workers.adapters.base import EngineBroken
from sagellm_workers.adapters.chunks import PlainChunks
from sagellm_workers.adapters.openai_http import OpenAIHttpAdapter
from sagellm_workers.adapters.sse import EVENT_LIMIT_BYTES
from sagellm_workers.http.transport import EngineClient

from ..conftest import CHAT, EVENT_STREAM_HEAD, StartTalk, ask, chunked, read_request


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Type: applica", id="half a header"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 70_000 + b"\r\n\r\n", id="endless header"),
        pytest.param(EVENT_STREAM_HEAD, id="no body"),
        pytest.param(EVENT_STREAM_HEAD + chunked(b"data: 1\n\n", end=False), id="cut between events"),
        pytest.param(EVENT_STREAM_HEAD + chunked(b"data: 1", end=False), id="cut inside an event"),
        pytest.param(EVENT_STREAM_HEAD + b"zz\r\ndata: 1\n\n\r\n", id="broken chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", id="short body"),
    ],
)
async def test_an_answer_that_breaks_off(talk: StartTalk, client: EngineClient, answer: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    with pytest.raises(EngineBroken, match="engine http://127"):
        await ask(OpenAIHttpAdapter(await talk(handler), client))


async def test_what_came_before_the_cut_is_given(talk: StartTalk, client: EngineClient) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(EVENT_STREAM_HEAD + chunked(b"data: 1\n\ndata:", end=False))
        await writer.drain()

    async with OpenAIHttpAdapter(await talk(handler), client).run(CHAT) as reply:
        assert await anext(reply.chunks) == b"data: 1\n\n"
        with pytest.raises(EngineBroken):
            await anext(reply.chunks)


async def test_what_is_no_http_behind_some_events_is_noticed_at_once(talk: StartTalk, client: EngineClient) -> None:
    """And not when the gap has lasted too long: the connection may even stay open."""
    left = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(EVENT_STREAM_HEAD + chunked(b"data: 1\n\n", end=False))
        await writer.drain()
        await go_on.wait()
        writer.write(b"\x00 this is no chunk\r\n")
        await writer.drain()
        await left.wait()

    go_on = asyncio.Event()
    async with asyncio.timeout(20), OpenAIHttpAdapter(await talk(handler), client).run(CHAT) as reply:
        assert await anext(reply.chunks) == b"data: 1\n\n"
        go_on.set()
        with pytest.raises(EngineBroken, match="cannot be read"):
            await anext(reply.chunks)
    left.set()


async def test_an_endless_event_is_cut_off(talk: StartTalk, client: EngineClient) -> None:
    sent = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(EVENT_STREAM_HEAD)
        piece = chunked(b"x" * 2**18, end=False)
        while True:
            writer.write(piece)
            await writer.drain()
            sent += 2**18

    with pytest.raises(EngineBroken, match="longer than 16777216 bytes"):
        await ask(OpenAIHttpAdapter(await talk(handler), client))
    assert sent < 3 * EVENT_LIMIT_BYTES


async def test_a_body_over_the_limit() -> None:
    chunks = PlainChunks("http://e", httpx.Response(200, content=_pieces()), limit_bytes=5)
    assert await anext(chunks) == b"1234"
    with pytest.raises(EngineBroken, match="longer than 5 bytes"):
        await anext(chunks)


async def _pieces() -> AsyncGenerator[bytes]:
    yield b"1234"
    yield b"56"
