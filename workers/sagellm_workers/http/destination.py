"""The short way of a request to an engine: head and body in one write, on a connection of aiohttp's.

aiohttp's session makes an object of each request, merges headers into it, looks for cookies, passwords and proxies, and
has a task of its own write the body. A request of an adapter's comes with all that it needs, so what is left is a
connection, a write and the parser: a third of the instructions.
"""

from __future__ import annotations

import asyncio

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from yarl import URL


class Destination:
    """One URL of an engine, prepared, and the connections to it."""

    def __init__(self, url: str, connector: aiohttp.BaseConnector) -> None:
        self._connector = connector
        self._loop = asyncio.get_running_loop()
        # What the connector goes by: it is never sent itself.
        self._to = aiohttp.ClientRequest("POST", URL(url), loop=self._loop)
        self._target = self._to.url.raw_path_qs.encode()

    async def ask(
        self, request: httpx.Request, body: bytes, limits: aiohttp.ClientTimeout, deadline: float | None
    ) -> ShortAnswer:
        """Send a request, and wait for the head of its answer until `deadline`.

        Raises:
            aiohttp.ClientError, OSError, TimeoutError: as aiohttp's session does.
            httpx.LocalProtocolError: a header would be several.
        """
        headers = request.headers.raw
        head = b"".join([b"%s: %s\r\n" % header for header in headers])
        if head.count(b"\n") != len(headers) or head.count(b"\r") != len(headers):
            raise httpx.LocalProtocolError("a header holds the end of a line")
        connection = await self._connect(limits, deadline)
        protocol = connection.protocol
        assert protocol is not None
        # A bare timer, as asyncio.timeout() costs three times as much, and the head is all that is waited for.
        silent = None if deadline is None else self._loop.call_at(deadline, _give_up, protocol)
        try:
            if protocol.transport is None or protocol.transport.is_closing():
                raise aiohttp.ClientConnectionResetError("the connection was lost as soon as it was made")
            protocol.set_response_params(read_until_eof=True)
            line = b"%s %s HTTP/1.1\r\n" % (request.method.encode(), self._target)
            protocol.transport.write(b"".join((line, head, b"\r\n", body)))
            message, content = await protocol.read()
            while message.code < 200 and message.code != 101:  # 100 Continue and its kin: the answer follows
                message, content = await protocol.read()
        except BaseException as error:
            connection.close()
            if isinstance(error, HttpProcessingError):
                raise aiohttp.ClientResponseError(
                    self._to.request_info, (), status=error.code, message=error.message, headers=error.headers
                ) from error
            raise
        finally:
            if silent is not None:
                silent.cancel()
        return ShortAnswer(message, content, connection)

    async def _connect(self, limits: aiohttp.ClientTimeout, deadline: float | None) -> Connection:
        try:
            return await self._connector.connect(self._to, [], limits)
        except TimeoutError as error:
            if deadline is not None and self._loop.time() >= deadline:
                raise
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {self._to.url}") from error


def _give_up(protocol: ResponseHandler) -> None:
    protocol.set_exception(TimeoutError())


class ShortAnswer:
    """What the transport uses of aiohttp's ClientResponse."""

    def __init__(self, message: RawResponseMessage, content: aiohttp.StreamReader, connection: Connection) -> None:
        self.status = message.code
        self.headers = message.headers
        self.raw_headers = message.raw_headers
        self.content = content
        self.connection = connection
        # As soon as the last byte has come, whoever may still read it: the next request can have the connection.
        content.on_eof(connection.release)

    def release(self) -> None:
        """The answer has come to its end."""
        self.connection.release()

    def close(self) -> None:
        """Nobody wants the rest of the answer."""
        self.connection.close()
