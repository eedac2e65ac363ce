"""Says anything at all to an HTTP server, and reads what it answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

ANSWERS_WITHIN_S = 20.0
PATIENCE_S = 0.05
"""A server that waits for more than there is gets the end of the connection after so long (s)."""


@dataclass
class Answer:
    """What came back; status 0: the connection was closed without a word."""

    status: int
    head: str
    body: bytes

    @property
    def is_json(self) -> bool:
        return "content-type: application/json" in self.head.lower()


async def say(url: str, words: bytes, *, patience_s: float = ANSWERS_WITHIN_S) -> Answer:
    """Send these bytes and read to the end of the connection, which ``words`` should ask for.

    Raises:
        TimeoutError: neither an answer nor an end.
    """
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            try:
                writer.write(words)
                await writer.drain()
                whole = asyncio.ensure_future(reader.read())
                await asyncio.wait({whole}, timeout=patience_s)
                if not whole.done():
                    writer.write_eof()
                answer = await whole
            except ConnectionError:
                answer = b""
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    line = head.split(b"\r\n")[0].split(b" ")
    status = int(line[1]) if len(line) > 1 and line[1].isdigit() else 0
    return Answer(status, head.decode("latin-1"), body)
