"""What the application makes of handlers that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from sagellm_control.gateway.app import make_app
from sagellm_control.gateway.settings import GatewaySettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Routes:
    """Stands for the endpoints: one path with the handler under test."""

    stopping = False

    def __init__(self, handler: Handler | None = None) -> None:
        self._handler = handler

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/", self._handler)] if self._handler else []


@asynccontextmanager
async def _serving(handler: Handler) -> AsyncGenerator[str, None]:
    app = make_app(GatewaySettings(), cast(Any, _Routes(handler)), cast(Any, _Routes()), cast(Any, _Routes()))
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _begin(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"data: 1\n\n")
    return response


async def test_a_client_that_leaves_while_it_is_written_to_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    left = asyncio.Event()

    async def talk(request: web.Request) -> web.StreamResponse:
        response = await _begin(request)
        assert request.transport is not None
        request.transport.abort()
        try:
            # aiohttp refuses to write to a connection that is closing.
            await response.write(b"data: 2\n\n")
        finally:
            left.set()
        return response

    async with _serving(talk) as url, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(url) as answer:
                await answer.read()
        await left.wait()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(("error", "status"), [(TimeoutError("slow"), 503), (RuntimeError("a bug"), 500)])
async def test_what_a_handler_fails_with(error: Exception, status: int) -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        raise error

    async with _serving(fail) as url, aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == status
        assert answer.headers.get("Retry-After") == ("1" if status == 503 else None)
        assert "a bug" not in await answer.text()


async def test_a_failure_in_mid_stream_cuts_it_and_writes_no_second_answer_into_it() -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        await _begin(request)
        raise RuntimeError("a bug")

    async with _serving(fail) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
    assert answer.count(b"HTTP/1.1") == 1, answer
    assert not answer.endswith(b"0\r\n\r\n"), "a client would take it for whole"
