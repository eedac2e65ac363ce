"""A TCP proxy between a process and its server, which does what networks do: cut, hold, lose, slow down."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

from ..waiting import wait_until

LOOPBACK = "127.0.0.1"
PIECE = 65_536


@dataclass(eq=False)
class Link:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    lost: bool = False
    """Nothing gets through any more, in neither direction, and nobody is told."""
    cut_reply: bool = False
    """The next piece of the server's is dropped and the connection cut."""
    to_server: bytearray = field(default_factory=bytearray)
    """The last that the client said, where a marker may begin in one piece and end in the next."""

    def cut(self) -> None:
        """Reset both sides."""
        for writer in (self.client, self.server):
            writer.transport.abort()


class TcpProxy:
    """Listens on ``port`` and passes everything on to ``target``, unless told otherwise."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.links: set[Link] = set()
        self.bytes_per_s: float | None = None
        """How fast the server's side is passed on; None: as it comes."""
        self._passing = asyncio.Event()
        self._passing.set()
        self._loses = False
        self._marker: bytes | None = None
        self.said = 0
        """Bytes that clients have sent through."""
        self.cut_replies = 0
        """How many replies were cut off after the server had carried the command out."""
        self._listener: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Take connections, on the same port as before."""
        self._listener = socket.create_server((LOOPBACK, self.port))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener, self._take, self._listener)

    async def refuse(self) -> None:
        """Cut every connection and take no new one: the server's process is gone."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        # Those that are still on their way to the server as well, which are no links yet.
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    def cut(self) -> None:
        """Reset every connection; new ones are taken."""
        for link in tuple(self.links):
            link.cut()

    def hold(self) -> None:
        """Let nothing from the server through until ``release``; nothing is lost."""
        self._passing.clear()

    def release(self) -> None:
        """Let everything through again."""
        self._passing.set()

    def lose(self) -> None:
        """A black hole: what is sent vanishes, now and on new connections, and nobody is told."""
        self._loses = True
        for link in self.links:
            link.lost = True

    def find(self) -> None:
        """New connections work again; those that were in the black hole stay dead without a word."""
        self._loses = False

    def cut_reply_to(self, marker: bytes) -> None:
        """Once: the command that contains ``marker`` reaches the server, and its reply does not come back."""
        self._marker = marker

    def _take(self, listener: socket.socket) -> None:
        # Not asyncio's own server: when that is closed, what it has just accepted outlives it.
        with suppress(BlockingIOError):
            connection, _ = listener.accept()
            task = asyncio.create_task(self._serve(connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
            task.add_done_callback(lambda _: connection.close())

    async def _serve(self, connection: socket.socket) -> None:
        with ExitStack() as at_end:
            reader, client = await asyncio.open_connection(sock=connection)
            at_end.callback(client.transport.abort)
            try:
                from_server, server = await asyncio.open_connection(LOOPBACK, self.target)
            except OSError:
                return
            at_end.callback(server.transport.abort)
            link = Link(client, server, lost=self._loses)
            self.links.add(link)
            at_end.callback(self.links.discard, link)
            ways = [
                asyncio.create_task(self._pass_on(link, reader, server, from_client=True)),
                asyncio.create_task(self._pass_on(link, from_server, client, from_client=False)),
            ]
            for way in ways:
                at_end.callback(way.cancel)
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)

    async def _pass_on(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(PIECE):
                if link.lost:
                    continue
                if from_client:
                    self.said += len(piece)
                    self._look_for_marker(link, piece)
                elif link.cut_reply:
                    self.cut_replies += 1
                    return
                else:
                    await self._passing.wait()
                    if self.bytes_per_s is not None:
                        await asyncio.sleep(len(piece) / self.bytes_per_s)
                writer.write(piece)
                await writer.drain()

    def _look_for_marker(self, link: Link, piece: bytes) -> None:
        if self._marker is None:
            return
        link.to_server = (link.to_server + piece)[-PIECE:]
        if self._marker in link.to_server:
            self._marker = None
            link.cut_reply = True


@asynccontextmanager
async def tcp_proxy(target: int) -> AsyncGenerator[TcpProxy, None]:
    """A proxy in front of a port of this machine; at the end everything is cut."""
    proxy = TcpProxy(target)
    await proxy.listen()
    try:
        yield proxy
    finally:
        proxy.release()
        await proxy.refuse()
        await wait_until(lambda: not proxy.links, what="every link is closed")
