"""One GET to a server of our own, to see whether it is ready."""

from __future__ import annotations

import asyncio

_WITHIN_S = 2.0
"""A process that starts may take the connection and answer late."""


async def get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Status and body; status 0 and the reason while nobody answers."""
    try:
        async with asyncio.timeout(_WITHIN_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        return int(head.split(maxsplit=2)[1]), body.strip()
    except (OSError, TimeoutError, ValueError, IndexError) as error:
        return 0, (str(error) or "no answer").encode()
