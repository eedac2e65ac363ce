"""An engine that fails is not the client's trouble, as long as another one can answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator

import orjson
import pytest

from sagellm_control.embedded import free_port

from .asking import CHAT_PATH, MODEL, chat, data, delta_of, expected_text
from .conftest import SimulatedEngine, StartEcho, StartEngine, StartSystem
from .echo_engine import EchoEngine
from .in_process import InProcessSystem

ASKED = {"model": "echo-1", "messages": [{"role": "user", "content": "hi"}]}
GOOD = b'{"good":true}'
GOOD_STREAM = [b'data: {"good":true}\n\n', b"data: [DONE]\n\n"]
ROUND_ROBIN = {"scheduler_placement": "round_robin"}
"""So that the engine that fails is sure to be asked."""


async def _ask(system: InProcessSystem, **fields: object) -> tuple[int, bytes]:
    async with system.session.post(system.url + CHAT_PATH, json=ASKED | fields) as response:
        return response.status, await response.read()


@pytest.fixture
async def bad(start_echo: StartEcho) -> EchoEngine:
    return await start_echo()


@pytest.fixture
async def good(start_echo: StartEcho) -> EchoEngine:
    engine = await start_echo()
    engine.answer(GOOD)
    return engine


@pytest.mark.parametrize("status", [500, 502, 503, 529, 408, 429])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_of_one_engine_goes_unnoticed(
    bad: EchoEngine, good: EchoEngine, start_system: StartSystem, status: int, stream: bool
) -> None:
    bad.answer(b'{"error":{"message":"not me"}}', status=status)
    system = await start_system(bad, good, **ROUND_ROBIN)
    for _ in range(4):
        assert await _ask(system, stream=stream) == (200, GOOD)
    assert bad.reached, "the test has not tested anything"
    assert len(good.reached) == 4
    await system.until_idle()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_cut_before_its_first_byte_goes_unnoticed(
    bad: EchoEngine, good: EchoEngine, start_system: StartSystem, stream: bool
) -> None:
    bad.stream([], cut=True)
    good.stream(GOOD_STREAM)
    system = await start_system(bad, good, **ROUND_ROBIN)
    for _ in range(4):
        assert await _ask(system, stream=stream) == (200, b"".join(GOOD_STREAM))
    assert bad.reached
    await system.until_idle()


@pytest.fixture
async def garbage() -> AsyncGenerator[EchoEngine, None]:
    """An engine that breaks HTTP itself where it should answer."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with EchoEngine() as inner:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"POST"):
                    writer.write(b"\x00\x01 this is no HTTP\r\n\r\n")
                    return
                path = head.split()[1].decode()
                async with _session().get(inner.url + path) as response:
                    body = await response.read()
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    yield server
    server.close()
