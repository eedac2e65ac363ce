"""The proxy does what the fault tests believe it does."""

from __future__ import annotations

import asyncio
import socket

import pytest

from .tcp_proxy import LOOPBACK, tcp_proxy


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_on_its_way_in_does_not_outlive_a_refusal(turns: int) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(100):
            writer.write(piece)
        writer.close()

    server = await asyncio.start_server(echo, LOOPBACK, 0)
    async with server, tcp_proxy(server.sockets[0].getsockname()[1]) as proxy:
        with socket.create_connection((LOOPBACK, proxy.port)) as client:
            for _ in range(turns):
                await asyncio.sleep(0)
            await proxy.refuse()
            client.settimeout(5)
            with pytest.raises(ConnectionError):
                await asyncio.to_thread(_ask, client)


def _ask(client: socket.socket) -> None:
    client.sendall(b"still there?")
    if not client.recv(100):
        raise ConnectionResetError
