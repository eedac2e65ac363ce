"""The proxy does what the fault tests believe it does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest

from .tcp_proxy import LOOPBACK, TcpProxy, tcp_proxy


@asynccontextmanager
async def _proxied() -> AsyncGenerator[TcpProxy]:
    """A proxy in front of a server that says what it is told."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(100):
                writer.write(piece)
        writer.close()

    server = await asyncio.start_server(echo, LOOPBACK, 0)
    async with server, tcp_proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


async def _turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_on_its_way_in_does_not_outlive_a_refusal(turns: int) -> None:
    async with _proxied() as proxy:
        with socket.create_connection((LOOPBACK, proxy.port)) as client:
            await _turns(turns)
            await proxy.refuse()
            client.settimeout(5)
            with pytest.raises(ConnectionError):
                await asyncio.to_thread(_ask, client)


@pytest.mark.parametrize("turns", range(6))
async def test_nor_does_one_that_is_just_ending(turns: int) -> None:
    async with _proxied() as proxy:
        reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        proxy.cut()
        await _turns(turns)
        await proxy.refuse()
        assert not proxy.links
        writer.close()


def _ask(client: socket.socket) -> None:
    client.sendall(b"still there?")
    if not client.recv(100):
        raise ConnectionResetError
