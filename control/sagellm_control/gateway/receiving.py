"""Receives the body of a request."""

from __future__ import annotations

from aiohttp import ClientRequest, hdrs, web
from aiohttp.web_protocol import RequestPayloadError

from .errors import ApiError, bad_request, too_large

ENCODINGS = ClientRequest.DEFAULT_HEADERS[hdrs.ACCEPT_ENCODING]
"""Those that aiohttp can undo, with the libraries that are there."""
_TAKEN = frozenset((*ENCODINGS.split(", "), "identity", ""))


async def receive(request: web.Request) -> bytes:
    """The whole body.

    Raises:
        ApiError: 400, 413, 415.
    """
    check_head(request)
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large(request.client_max_size) from None
    except RequestPayloadError as error:
        said = " ".join(str(error).split()).removeprefix("400, message: ")
        raise bad_request(f"The body cannot be read: {said}.", None, "invalid_body") from error


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
