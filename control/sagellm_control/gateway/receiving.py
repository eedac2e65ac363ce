"""Receives the body of a request, and does not wait for ever for one whose sender is silent."""

from __future__ import annotations

import asyncio

from aiohttp import ClientRequest, hdrs, web
from aiohttp.web_protocol import RequestPayloadError

from .errors import ApiError, bad_request, too_large

ENCODINGS = ClientRequest.DEFAULT_HEADERS[hdrs.ACCEPT_ENCODING]
"""Those that aiohttp can undo, with the libraries that are there."""
_TAKEN = frozenset((*ENCODINGS.split(", "), "identity", ""))


async def receive(request: web.Request, silence_s: float) -> bytes:
    """The whole body.

    Args:
        silence_s: for so long nothing of it may come.

    Raises:
        ApiError: 400, 408, 413, 415.
    """
    check_head(request)
    content = request.content
    try:
        # Most have come with their heads: those need no timer.
        body = await (content.readany() if content.is_eof() else _arriving(request, silence_s))
    except RequestPayloadError as error:
        said = " ".join(str(error).split()).removeprefix("400, message: ")
        raise bad_request(f"The body cannot be read: {said}.", None, "invalid_body") from error
    if len(body) > request.client_max_size:
        raise too_large(request.client_max_size)
    return body


async def _arriving(request: web.Request, silence_s: float) -> bytes:
    """What comes until it is whole, or longer than it may be."""
    content, body, now = request.content, bytearray(), asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(None) as silence:
            while len(body) <= request.client_max_size:
                silence.reschedule(now() + silence_s)
                if not (piece := await content.readany()):
                    break
                body += piece
    except TimeoutError:
        message = f"Nothing of the body has come for {silence_s:g} s, the gateway's --body-timeout-s."
        # aiohttp would read on before it closes the connection.
        content.set_exception(RequestPayloadError(message))
        raise ApiError(408, message, code="body_timeout") from None
    return bytes(body)


def check_head(request: web.Request) -> None:
    """Before any of the body is read.

    Raises:
        ApiError: 413, 415.
    """
    if (request.content_length or 0) > request.client_max_size:
        raise too_large(request.client_max_size)
    if (
        hdrs.CONTENT_ENCODING in request.headers
        and ", ".join(request.headers.getall(hdrs.CONTENT_ENCODING)).lower() not in _TAKEN
    ):
        raise unsupported_encoding()


def unsupported_encoding() -> ApiError:
    """The body is encoded in a way that nobody here can undo."""
    error = ApiError(
        415,
        f"A body may come in one of these encodings, or as it is: {ENCODINGS}.",
        code="unsupported_encoding",
        param=hdrs.CONTENT_ENCODING,
    )
    error.headers[hdrs.ACCEPT_ENCODING] = ENCODINGS
    return error
