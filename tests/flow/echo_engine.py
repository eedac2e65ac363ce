"""An engine that remembers what reached it, and answers the very bytes that a test gives it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web
from multidict import CIMultiDict

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass
class Reached:
    """One request, as the engine got it."""

    path: str
    headers: CIMultiDict[str]
    body: bytes


Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class EchoEngine:
    """Serves the model ``echo-1``, or others; ``async with`` runs it."""

    slots: int = 4
    models: Sequence[str] = ("echo-1",)
    adapters: Sequence[str] = ()
    """Of the first model."""
    card: Mapping[str, object] = field(default_factory=dict[str, object])
    """What else it says of its models."""
    models_status: int = 200
    """Of the answer that lists its models."""
    lists: int = 0
    """How often it was asked for them."""
    props_status: int = 200
    """Of the answer that tells its slots."""
    server_info: Mapping[str, object] | None = None
    """What it says of itself where it introduces itself as SGLang; None: nothing yet."""
    surveys: int = 0
    """How often it was asked for its slots."""
    url: str = ""
    reached: list[Reached] = field(default_factory=list[Reached])
    aborted: int = 0
    """Requests whose connection was closed before they were answered."""
    healthy: bool = True
    """What it says of itself."""
    silent: bool = False
    """It leaves health probes without an answer."""
    probes: int = 0

    def __post_init__(self) -> None:
        self._answering: Answering = _answered(b"{}")
        self._runner = self._make_runner()

    def _make_runner(self) -> web.AppRunner:
        app = web.Application(client_max_size=2**30)
        app.add_routes(
            [
                web.get("/v1/models", self._models),
                web.get("/props", self._props),
                web.get("/server_info", self._server_info),
                web.get("/health", self._health),
                web.post("/v1/{path:.*}", self._post),
            ]
        )
        return web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def vanish(self) -> None:
        """Close every connection and take no new one."""
        await self._runner.cleanup()

    async def come_back(self) -> None:
        """Serve again, at the same address."""
        self._runner = self._make_runner()
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", int(self.url.rpartition(":")[2])).start()

    def answer(
        self, body: bytes, *, status: int = 200, content_type: str = JSON, headers: Mapping[str, str] | None = None
    ) -> None:
        """From now on: this answer, in one piece."""
        self._answering = _answered(body, status=status, content_type=content_type, headers=headers)

    def stream(self, pieces: Sequence[bytes], *, gate: asyncio.Event | None = None, cut: bool = False) -> None:
        """From now on: these pieces as an event stream, each written by itself.

        Args:
            gate: wait for it before the last piece.
            cut: close the connection after the last piece instead of ending the answer.
        """

        async def answering(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": EVENTS})
            await response.prepare(request)
            for number, piece in enumerate(pieces):
                if gate is not None and number == len(pieces) - 1:
                    await gate.wait()
                await response.write(piece)
                await asyncio.sleep(0)
            if cut and request.transport is not None:
                request.transport.close()
                return response
            await response.write_eof()
            return response

        self._answering = answering

    def respond(self, answering: Answering) -> None:
        """From now on: whatever this handler does."""
        self._answering = answering

    async def _post(self, request: web.Request) -> web.StreamResponse:
        self.reached.append(Reached(request.path, CIMultiDict(request.headers), await request.read()))
        try:
            return await self._answering(request)
        except (asyncio.CancelledError, ConnectionError):
            self.aborted += 1
            raise

    async def _models(self, _: web.Request) -> web.Response:
        self.lists += 1
        row = {"object": "model", "owned_by": "llamacpp", **self.card}
        rows: list[dict[str, object]] = [{"id": name, **row} for name in self.models]
        rows += [{"id": name, "object": "model", "parent": self.models[0]} for name in self.adapters]
        return web.json_response({"object": "list", "data": rows}, status=self.models_status)

    async def _props(self, _: web.Request) -> web.Response:
        self.surveys += 1
        return web.json_response({"total_slots": self.slots}, status=self.props_status)

    async def _server_info(self, _: web.Request) -> web.Response:
        if self.server_info is not None:
            return web.json_response(self.server_info)
        return web.json_response({}, status=503 if self.card.get("owned_by") == "sglang" else 404)

    async def _health(self, _: web.Request) -> web.Response:
        self.probes += 1
        if self.silent:
            await asyncio.Event().wait()
        return web.json_response({"status": "ok"}, status=200 if self.healthy else 503)


async def write_until_closed(
    request: web.Request, pieces: Sequence[bytes], content_type: str = EVENTS
) -> web.StreamResponse:
    """An answer of which only the end of the connection says that it is over."""
    assert request.transport is not None
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nConnection: close\r\n\r\n"
    request.transport.write(head.encode())
    for piece in pieces:
        request.transport.write(piece)
        await asyncio.sleep(0.03)
    request.transport.close()
    return web.Response()


def _answered(
    body: bytes, *, status: int = 200, content_type: str = JSON, headers: Mapping[str, str] | None = None
) -> Answering:
    async def answering(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Content-Type": content_type, **(headers or {})})

    return answering
