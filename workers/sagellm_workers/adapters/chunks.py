"""The body of an engine's answer, as the reply's `chunks`: whole events, or plain pieces.

Iterators and no generators: one that is dropped half-way leaves nothing behind that would have to be closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager

import httpx

from .base import AnswerTooLong, EngineBroken, EngineError, EngineTimeout, EngineUnreachable
from .sse import EVENT_LIMIT_BYTES, EventSplitter, EventTooLarge

BODY_LIMIT_BYTES = 64 * 2**20  # of a whole answer, streamed or not: embeddings of a large batch are long


class EventChunks:
    """Items that hold one or more whole events. Raises EngineTimeout and EngineBroken."""

    def __init__(self, url: str, response: httpx.Response, limit_bytes: int = BODY_LIMIT_BYTES) -> None:
        self._url = url
        self._pieces = PlainChunks(url, response, limit_bytes)
        self._splitter = EventSplitter(min(EVENT_LIMIT_BYTES, limit_bytes))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            while True:
                whole = self._splitter.feed(await anext(self._pieces))
                if whole:
                    return whole
        except StopAsyncIteration:
            last = self._splitter.finish()
            if last:
                return last
            raise
        except EventTooLarge as error:
            raise engine_error(self._url, error) from error


class PlainChunks:
    """The pieces as they come, up to a limit. Raises EngineTimeout and EngineBroken."""

    def __init__(self, url: str, response: httpx.Response, limit_bytes: int = BODY_LIMIT_BYTES) -> None:
        self._url = url
        self._pieces = pieces_of(response)
        self._limit = limit_bytes
        self._size = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._pieces)
        except httpx.HTTPError as error:
            raise engine_error(self._url, error) from error
        self._size += len(piece)
        if self._size > self._limit:
            raise AnswerTooLong(f"engine {self._url}: the answer is longer than {self._limit} bytes")
        return piece


class WholeBody:
    """A body that is at hand, in one piece."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        body, self._body = self._body, None
        if body is None:
            raise StopAsyncIteration
        return body


def pieces_of(response: httpx.Response) -> AsyncIterator[bytes]:
    # Not response.aiter_raw(): that is two more generators a chunk, and nobody reads what they count.
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    return aiter(stream)


def engine_error(url: str, error: Exception) -> EngineError:
    """The failure of an exchange, under its name in `base`."""
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.UnsupportedProtocol():
            return EngineUnreachable(f"engine {url} cannot be reached: {error}")
        case httpx.TimeoutException():
            return EngineTimeout(f"engine {url} is silent: {error}")
        case _:
            return EngineBroken(f"engine {url} broke off: {error}")


@contextmanager
def engine_errors(url: str) -> Generator[None]:
    """Raise the failures of httpx under their names in `base`."""
    try:
        yield
    except httpx.HTTPError as error:
        raise engine_error(url, error) from error
