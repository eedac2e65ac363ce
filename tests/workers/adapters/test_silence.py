"""Silent engines: no first byte, gaps between bytes, and pauses that are our own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest

from sagellm_workers.adapters.base import EngineTimeout
from sagellm_workers.adapters.openai_http import OpenAIHttpAdapter
from sagellm_workers.http.transport import EngineClient

from ..conftest import CHAT, EVENT_STREAM_HEAD, StartTalk, ask, chunked, read_request

NO_TYPE_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("head", [b"", EVENT_STREAM_HEAD, NO_TYPE_HEAD])
async def test_no_first_byte(talk: StartTalk, client: EngineClient, head: bytes) -> None:
    """vLLM sends its headers at once: the first byte that counts is the body's."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(head)
        await asyncio.Event().wait()

    adapter = OpenAIHttpAdapter(await talk(handler), client, first_byte_timeout_s=0.1, gap_timeout_s=0.01)
    began = time.monotonic()
    with pytest.raises(EngineTimeout):
        await ask(adapter)
    assert time.monotonic() - began >= 0.1


async def test_no_connection_before_the_first_byte_is_due(client: EngineClient) -> None:
    with socket.socket() as full:  # its queue is: connections to it stay half made
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with socket.create_connection(address), contextlib.ExitStack() as others:
            for _ in range(4):
                other = others.enter_context(socket.socket())
                other.setblocking(False)
                other.connect_ex(address)
            adapter = OpenAIHttpAdapter(f"http://127.0.0.1:{address[1]}", client, first_byte_timeout_s=0.1)
            with pytest.raises(EngineTimeout, match=r"no answer within 0\.1 s"):
                await ask(adapter)


async def test_a_gap(talk: StartTalk, client: EngineClient) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(EVENT_STREAM_HEAD + chunked(b"data: 1\n\n", end=False))
        await asyncio.Event().wait()

    adapter = OpenAIHttpAdapter(await talk(handler), client, first_byte_timeout_s=60, gap_timeout_s=0.05)
    with pytest.raises(EngineTimeout, match=r"no further byte for 0\.05 s"):
        await ask(adapter)


@pytest.mark.parametrize("ping", [b":\n\n", b": ping\r\n\r\n"])
@pytest.mark.parametrize(("begun", "silence"), [(b"", "no byte of the answer"), (b"data: 1\n\n", "no further byte")])
async def test_comments_are_no_bytes_of_the_answer(
    talk: StartTalk, client: EngineClient, ping: bytes, begun: bytes, silence: str
) -> None:
    """llama.cpp's server sends them whatever becomes of its model."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(EVENT_STREAM_HEAD + (chunked(begun, end=False) if begun else b""))
        while True:
            await asyncio.sleep(0.01)
            for half in (ping[:1], ping[1:]):
                writer.write(chunked(half, end=False))
                await writer.drain()

    first_byte_s = 60 if begun else 0.1
    adapter = OpenAIHttpAdapter(await talk(handler), client, first_byte_timeout_s=first_byte_s, gap_timeout_s=0.1)
    with pytest.raises(EngineTimeout, match=silence):
        await ask(adapter)
    assert (adapter.heard_at > 0) == bool(begun)


async def test_a_slow_stream_without_a_gap_lasts_longer_than_the_limit(talk: StartTalk, client: EngineClient) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(EVENT_STREAM_HEAD)
        for _ in range(8):
            await asyncio.sleep(0.05)
            writer.write(chunked(b"data: 1\n\n", end=False))
        writer.write(chunked())

    adapter = OpenAIHttpAdapter(await talk(handler), client, first_byte_timeout_s=0.3, gap_timeout_s=0.3)
    assert (await ask(adapter)).body == b"data: 1\n\n" * 8


async def test_our_own_pause_is_no_gap(talk: StartTalk, client: EngineClient) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(EVENT_STREAM_HEAD + chunked(b"data: 1\n\n", end=False))
        await asyncio.sleep(0.01)
        writer.write(chunked(b"data: 2\n\n"))
        await asyncio.Event().wait()

    adapter = OpenAIHttpAdapter(await talk(handler), client, gap_timeout_s=0.05)
    async with adapter.run(CHAT) as reply:
        assert await anext(reply.chunks) == b"data: 1\n\n"
        await asyncio.sleep(0.15)
        assert await anext(reply.chunks) == b"data: 2\n\n"
