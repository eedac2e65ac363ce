"""The gateway's listener, and what it says to bytes that are no HTTP."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo  # pyright: ignore[reportPrivateUsage]

from ..wire.trace_context import NO_TRACE
from .errors import ApiError
from .receiving import unsupported_encoding
from .request_ids import new_id, write_ids

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that may wait to be accepted: a burst of clients must not be refused."""
KEEPALIVE_S = 75.0
"""Longer than the 60 s for which load balancers keep idle connections, so that they close them and not we."""
LONGEST_LINE_BYTES = 8190
"""Of a header, and of the request line; what Apache and nginx take."""
MOST_HEADERS = 128


class Connection(web.RequestHandler):
    """One connection. What reaches no endpoint is refused in OpenAI's form too, and is no error in our log."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Bytes have come. Where they are no HTTP from the middle of a body on, it ends there: aiohttp's parser only
        queues the error behind the request, which would wait for the rest of its body for ever."""
        super().data_received(data)
        request = self._current_request
        if request is not None and self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            body = request.content
            if not body.is_eof() and body.exception() is None:
                body.set_exception(RequestPayloadError(self._messages[-1][0].message))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to an error that no endpoint has handled."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        error = _no_http(exc)
        log.info("%s sent what reaches no endpoint: %s", request.remote, error.message)
        response = error.response()
        response.headers.update(write_ids(new_id(), NO_TRACE))  # it has sent none that could be read
        response.force_close()
        return response

    def log_exception(self, *args: Any, **details: Any) -> None:
        """Log an exception; but for a body that cannot be read: its sender has been told."""
        if not isinstance(details.get("exc_info"), RequestPayloadError):
            super().log_exception(*args, **details)


async def listen(runner: web.AppRunner, host: str, port: int) -> asyncio.Server:
    """Begin to accept connections for an application that has been set up.

    Raises:
        OSError: the address cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    server = runner.server
    assert server is not None

    def connection() -> Connection:
        return Connection(
            server,
            loop=loop,
            access_log=None,  # pyright: ignore[reportArgumentType]
            keepalive_timeout=KEEPALIVE_S,
            max_line_size=LONGEST_LINE_BYTES,
            max_field_size=LONGEST_LINE_BYTES,
            max_headers=MOST_HEADERS,
        )

    return await loop.create_server(connection, host, port, backlog=BACKLOG)


def _no_http(exc: HttpProcessingError) -> ApiError:
    if isinstance(exc, ContentEncodingError):
        return unsupported_encoding()  # one that aiohttp knows, and has no library for
    said = exc.message.split("\n")[0].rstrip(":. ")
    if isinstance(exc, LineTooLong):
        # Its words quote what was sent, which may be a key.
        return ApiError(
            431, f"The request line, or a header, is longer than {LONGEST_LINE_BYTES} bytes.", code="headers_too_large"
        )
    if said.startswith("Too many headers"):
        return ApiError(431, f"There are more than {MOST_HEADERS} headers.", code="headers_too_large")
    return ApiError(400, f"This is no HTTP request: {said}.", code="invalid_http")
