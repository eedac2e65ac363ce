"""A client that does not read what it is sent."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

import orjson
import pytest
from aiohttp import web

from sagellm_control.gateway import answering
from sagellm_control.gateway.metrics import open_requests

from ..waiting import wait_until
from .asking import CHAT_PATH, chat
from .conftest import StartEcho, StartSystem

PIECE = b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": "x" * 2**18}}]}) + b"\n\n"
PIECES = 100
"""Far more than what the sockets on the way hold."""


async def test_one_that_reads_no_more_is_cut_off_when_its_time_is_over(
    start_echo: StartEcho, start_system: StartSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "CUT_AFTER_S", 0.0)
    engine = await start_echo()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(PIECES):
            await response.write(PIECE)
        await response.write_eof(b"data: [DONE]\n\n")
        return response

    engine.respond(answer)
    system = await start_system(engine)
    parts = urlsplit(system.url)
    body = orjson.dumps(chat(stream=True) | {"model": "echo-1"})
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n"
    timeout = "X-Request-Timeout-Ms: 2000\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (parts.hostname, parts.port))
        await loop.sock_sendall(client, (head + timeout).encode() + body)
        await wait_until(lambda: open_requests.number == 1, what="it is asked")
        await wait_until(lambda: open_requests.number == 0, what="it is cut off")
