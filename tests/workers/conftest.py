"""Fake engines: aiohttp applications, and bare sockets for those that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
from aiohttp import web

from sagellm_control.wire.trace_context import TraceContext
from sagellm_workers.adapters.base import EngineAdapter, EngineCall
from sagellm_workers.http.transport import EngineClient, engine_client

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
StartTalk = Callable[[Talk], Awaitable[str]]
Serve = Callable[[Mapping[str, Any]], Awaitable[str]]

WAIT_LIMIT_S = 10.0
CHAT = EngineCall("req-1", TraceContext("trace-1"), "chat", True, b'{"model":"m","messages":[]}', 2, "req-1")
EVENT_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@dataclass
class Answered:
    """What an adapter's reply brought."""

    status: int
    content_type: str
    retry_after_s: float | None
    items: list[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.items)

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """Decoded data of the events, and "[DONE]" as it is."""
        payloads = [event.removeprefix(b"data: ") for event in self.body.split(b"\n\n")[:-1]]
        return ["[DONE]" if payload == b"[DONE]" else orjson.loads(payload) for payload in payloads]


async def ask(adapter: EngineAdapter, call: EngineCall = CHAT, **changes: Any) -> Answered:
    """Run a call and read the answer to its end."""
    async with asyncio.timeout(WAIT_LIMIT_S), adapter.run(replace(call, **changes)) as reply:
        items = [chunk async for chunk in reply.chunks]
        return Answered(reply.status, reply.content_type, reply.retry_after_s, items)


async def read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """Request line, headers (names in lower case) and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    return head[0], headers, await reader.readexactly(int(headers.get("content-length", "0")))


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    """Pieces as HTTP chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + (b"0\r\n\r\n" if end else b"")


@pytest.fixture
async def client() -> AsyncGenerator[EngineClient]:
    async with engine_client() as client:
        yield client


@pytest.fixture
async def serve() -> AsyncGenerator[Serve]:
    """Start a server of routes ("GET /path": a handler, a JSON value, or a status); gives its URL."""
    async with AsyncExitStack() as stack:

        async def start(routes: Mapping[str, Any]) -> str:
            app = web.Application(client_max_size=2**30)
            for route, answer in routes.items():
                method, path = route.split()
                app.router.add_route(method, path, answer if callable(answer) else _always(answer))
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            return f"http://{host}:{port}"

        yield start


def _always(answer: Any) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(_: web.Request) -> web.Response:
        if isinstance(answer, int):
            return web.Response(status=answer)
        if isinstance(answer, str):
            return web.Response(text=answer)
        return web.Response(body=orjson.dumps(answer), content_type="application/json")

    return handler


@pytest.fixture
async def talk() -> AsyncGenerator[StartTalk]:
    """Start a server of bare sockets; gives its URL. A connection is closed when its handler returns."""
    async with AsyncExitStack() as stack:

        async def start(handler: Talk) -> str:
            return await stack.enter_async_context(_listening(handler))

        yield start


@asynccontextmanager
async def _listening(handler: Talk) -> AsyncGenerator[str]:
    conversations: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        try:
            await handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the other side left, or the test is over
        finally:
            conversations.discard(task)
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0, limit=2**26)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.close()
        left = list(conversations)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await server.wait_closed()
