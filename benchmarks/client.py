"""The load client: raw HTTP/1.1 on asyncio protocols, without a task or a future for a request.

It must not be what is measured, so it does only this: write prepared bytes, note when the first ``data:`` comes and
when the last chunk has come, and look afterwards whether the answer is whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from .chat import Chat
from .process import BenchmarkFailed
from .system import HOST

_LAST_CHUNK = b"0\r\n\r\n"
_FIRST_EVENT = b"\ndata: "
DRAIN_S = 30.0
"""What is still open so long after the last request was sent has failed."""


@dataclass(slots=True)
class Exchange:
    """One request and its answer. Times are monotonic seconds; 0: it did not come to that."""

    chat: Chat
    due_at: float = 0.0
    """When an open-loop schedule wanted it sent."""
    sent_at: float = 0.0
    first_at: float = 0.0
    """The first event with data; comments and headers do not count."""
    done_at: float = 0.0
    pieces: list[bytes] = field(default_factory=list[bytes])
    problem: str = ""

    @property
    def ttft_ms(self) -> float:
        """From the write of the request to the first event."""
        return (self.first_at - self.sent_at) * 1000


Ended = Callable[["_Connection", Exchange], None]


class _Connection(asyncio.Protocol):
    """A kept connection that carries one exchange at a time."""

    def __init__(self, ended: Ended) -> None:
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def send(self, exchange: Exchange) -> None:
        assert self._transport is not None
        self._exchange = exchange
        exchange.sent_at = time.monotonic()
        self._transport.write(exchange.chat.wire)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        pieces = exchange.pieces
        pieces.append(data)
        if not exchange.first_at:
            if _FIRST_EVENT in (data if len(pieces) == 1 else b"".join(pieces)):
                exchange.first_at = time.monotonic()
            elif not pieces[0].startswith(b"HTTP/1.1 200"):
                self._fail(f"answered {pieces[0][9:200].decode(errors='replace')}")
                return
        if data.endswith(_LAST_CHUNK) or (len(data) < len(_LAST_CHUNK) and b"".join(pieces).endswith(_LAST_CHUNK)):
            exchange.done_at = time.monotonic()
            self._exchange = None
            exchange.problem = exchange.chat.problem(b"".join(pieces))
            exchange.pieces = []
            self._ended(self, exchange)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._exchange is not None:
            self._fail(f"connection lost: {exc or 'closed by the server'}")

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, problem: str) -> None:
        exchange, self._exchange = self._exchange, None
        if self._transport is not None:
            self._transport.abort()
        if exchange is not None:
            exchange.problem = problem
            self._ended(self, exchange)


class LoadClient:
    """Connections to one port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._on_end: Callable[[Exchange], None] = lambda _: None

    async def __aenter__(self) -> LoadClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._all:
            connection.close()

    async def connect(self, number: int) -> None:
        """Have so many idle connections."""
        self._idle = [connection for connection in self._idle if connection.usable]
        while len(self._idle) < number:
            self._idle.append(await self._open())

    async def one(self, chat: Chat) -> Exchange:
        """One exchange, alone."""
        return (await self.all_at([chat], [0.0]))[0]

    async def closed_loop(self, chats: Iterator[Chat], *, at_once: int, seconds: float) -> list[Exchange]:
        """Keep ``at_once`` requests under way for so long; those that ended within that time."""
        await self.connect(at_once)
        ended: list[Exchange] = []
        stop_at = time.monotonic() + seconds
        left = at_once
        none_left = asyncio.Event()

        def on_end(exchange: Exchange) -> None:
            nonlocal left
            ended.append(exchange)
            if time.monotonic() < stop_at and (connection := self._take()) is not None:
                connection.send(Exchange(next(chats)))
            else:
                left -= 1
                if not left:
                    none_left.set()

        self._on_end = on_end
        for connection in [self._idle.pop() for _ in range(at_once)]:
            connection.send(Exchange(next(chats)))
        try:
            await asyncio.wait_for(none_left.wait(), seconds + DRAIN_S)
        except TimeoutError:
            raise BenchmarkFailed(f"{left} of {at_once} answers did not end within {DRAIN_S:g} s") from None
        return [exchange for exchange in ended if exchange.problem or exchange.done_at <= stop_at]

    async def all_at(self, chats: Sequence[Chat], offsets_s: Sequence[float]) -> list[Exchange]:
        """Open loop: send each chat at its offset from now, whatever has been answered; all of them."""
        began = time.monotonic()
        exchanges = [Exchange(chat, due_at=began + at) for chat, at in zip(chats, offsets_s, strict=True)]
        left = len(exchanges)
        none_left = asyncio.Event()

        def on_end(_: Exchange) -> None:
            nonlocal left
            left -= 1
            if not left:
                none_left.set()

        self._on_end = on_end
        for exchange in exchanges:
            if (wait_s := exchange.due_at - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            connection = self._take() or await self._open()
            connection.send(exchange)
        try:
            await asyncio.wait_for(none_left.wait(), DRAIN_S + offsets_s[-1])
        except TimeoutError:
            for exchange in exchanges:
                if not exchange.done_at and not exchange.problem:
                    exchange.problem = "did not end in time"
        return exchanges

    def _take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _open(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self._ended), HOST, self.port)
        self._all.add(connection)
        return connection

    def _ended(self, connection: _Connection, exchange: Exchange) -> None:
        if connection.usable:
            self._idle.append(connection)
        else:
            self._all.discard(connection)
        self._on_end(exchange)
