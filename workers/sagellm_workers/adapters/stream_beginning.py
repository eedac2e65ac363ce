"""Finds out by its first bytes whether an answer is an event stream, where its content type does not say so.

Some servers give generators a type that they would give any text (Flask: text/html), or none at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from .chunks import pieces_of
from .sse import BYTE_ORDER_MARK

MOST_BYTES = 64
"""So many are looked at; what is still undecided then, as blank lines without an end, is no stream."""
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


def may_be_stream(response: httpx.Response) -> bool:
    """Whether the type of an answer that is not said to be one leaves that open."""
    return response.status_code == 200 and "json" not in response.headers.get("content-type", "").lower()


async def recognise(response: httpx.Response) -> None:
    """If its body begins as an event stream does, that is its type from now on.

    Raises:
        httpx.HTTPError: the body did not come.
    """
    body, pieces = response.stream, pieces_of(response)
    assert isinstance(body, httpx.AsyncByteStream)
    begun = b""
    found: bool | None = None
    while found is None and len(begun) < MOST_BYTES and (piece := await anext(pieces, b"")):
        begun += piece
        found = _is_stream(begun)
    response.stream = _Begun(begun, pieces, body)
    if found:
        response.headers["content-type"] = "text/event-stream"


def _is_stream(begun: bytes) -> bool | None:
    """None: more of it would tell."""
    begun = begun[:MOST_BYTES]
    if BYTE_ORDER_MARK.startswith(begun):
        return None
    line = begun.removeprefix(BYTE_ORDER_MARK).lstrip(b"\r\n")
    if line.startswith(_FIELDS):
        return True
    return None if any(field.startswith(line) for field in _FIELDS) else False


class _Begun(httpx.AsyncByteStream):
    """A body of which the beginning has been taken, which is put back."""

    def __init__(self, begun: bytes, rest: AsyncIterator[bytes], body: httpx.AsyncByteStream) -> None:
        self._begun = begun
        self._rest = rest
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        begun, self._begun = self._begun, b""
        return begun or await anext(self._rest)

    async def aclose(self) -> None:
        await self._body.aclose()
