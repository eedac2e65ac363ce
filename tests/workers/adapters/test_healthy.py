"""Whether an engine takes requests: one answer, never an exception."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_workers.adapters.engine_http import EngineHttp
from sagellm_workers.adapters.openai_http import OpenAIHttpAdapter
from sagellm_workers.http.transport import EngineClient

from ..conftest import Serve, StartTalk


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ({"GET /health": 200}, True),
        ({"GET /health": 503, "GET /v1/models": 200}, False),
        ({"GET /health": 500}, False),
        ({"GET /v1/models": {"data": []}}, True),
        ({"GET /v1/models": 401}, False),
        ({}, False),
    ],
)
async def test_healthy(serve: Serve, client: EngineClient, routes: dict[str, object], expected: bool) -> None:
    assert await OpenAIHttpAdapter(await serve(routes), client).healthy() is expected


async def test_an_engine_that_is_not_there_is_not_healthy(client: EngineClient, unused_tcp_port: int) -> None:
    assert not await OpenAIHttpAdapter(f"http://127.0.0.1:{unused_tcp_port}", client).healthy()


async def test_an_answer_that_drips_is_not_waited_for(talk: StartTalk, client: EngineClient) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.01)

    http = EngineHttp(await talk(handler), client, health_timeout_s=0.1)
    assert await http.healthy() is None


async def test_garbage_is_not_healthy(talk: StartTalk, client: EngineClient) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\0\1\2 no HTTP")

    assert not await OpenAIHttpAdapter(await talk(handler), client).healthy()
