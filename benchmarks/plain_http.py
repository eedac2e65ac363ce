"""As little of HTTP/1.1 as a benchmark's engine needs: requests with a length on kept connections."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class PlainHttp(ABC, asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._read = b""

    @abstractmethod
    def answer(self, head: bytes, body: bytes) -> None:
        """Write the answer to a request, now or later."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._read, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._read) < whole:
                return
            request, self._read = self._read[:whole], self._read[whole:]
            self.answer(request[:end], request[end + 4 :])

    def write(self, data: bytes) -> None:
        """Send it when this turn of the loop ends."""
        assert self.transport is not None
        self.transport.write(data)

    def close(self) -> None:
        """Close the connection once what was written is sent."""
        assert self.transport is not None
        self.transport.close()


def json_answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole answer."""
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def serve(port: int, connection: Callable[[], PlainHttp]) -> None:
    """Serve on loopback until the process is ended."""
    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", port)
    await server.serve_forever()
