"""The body of an engine's answer, as the reply's `chunks`: whole events, or plain pieces.

Iterators and no generators: one that is dropped half-way leaves nothing behind that would have to be closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager

import httpx

from ..http.keep_alive import only_keeps_alive
from .base import AnswerTooLong, EngineBroken, EngineError, EngineTimeout, EngineUnreachable
from .sse import EVENT_LIMIT_BYTES, EventSplitter, EventTooLarge
from .stream_end import StreamEnd, is_whole

BODY_LIMIT_BYTES = 64 * 2**20  # of a whole answer, streamed or not: embeddings of a large batch are long


def _unheard() -> None:
    """Nobody wants to know."""


class EventChunks:
    """Items that hold one or more whole events; `heard` is called with each. Raises EngineTimeout and EngineBroken.

    What only keeps the connection alive (llama.cpp's pings, say) is none: it tells nothing of the answer.

    Where HTTP itself says how long the body is, a cut is an error of HTTP's, and the stream may end as it likes. A body
    that ends when the connection is closed looks the same if its engine was killed: there the events have to say it.
    """

    def __init__(
        self,
        url: str,
        response: httpx.Response,
        limit_bytes: int = BODY_LIMIT_BYTES,
        heard: Callable[[], None] = _unheard,
    ) -> None:
        self._url = url
        self._pieces = PlainChunks(url, response, limit_bytes)
        self._heard = heard
        self._splitter = EventSplitter(min(EVENT_LIMIT_BYTES, limit_bytes))
        self._end = StreamEnd() if ends_with_connection(response) else None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            while True:
                whole = self._splitter.feed(await anext(self._pieces))
                if not only_keeps_alive(whole):
                    self._heard()
                    if self._end is not None:
                        self._end.read(whole)
                    return whole
        except StopAsyncIteration:
            if last := self._last():
                return last
            raise
        except EventTooLarge as error:
            raise engine_error(self._url, error) from error

    def _last(self) -> bytes:
        """What is held when the body has ended, if that is an event without its blank line; or nothing."""
        last = self._splitter.finish()
        if last and not is_whole(last):
            raise broke_off(self._url, "the stream ended inside an event")
        if only_keeps_alive(last):
            last = b""
        if self._end is not None:
            self._end.read(last)
            if not last and not self._end.reached:
                raise broke_off(self._url, "its stream has no end")
        return last


class PlainChunks:
    """The pieces as they come, up to a limit; `heard` is called with each. Raises EngineTimeout and EngineBroken."""

    def __init__(
        self,
        url: str,
        response: httpx.Response,
        limit_bytes: int = BODY_LIMIT_BYTES,
        heard: Callable[[], None] = _unheard,
    ) -> None:
        self._url = url
        self._pieces = pieces_of(response)
        self._limit = limit_bytes
        self._heard = heard
        self._size = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._pieces)
        except httpx.HTTPError as error:
            raise engine_error(self._url, error) from error
        self._heard()
        self._size += len(piece)
        if self._size > self._limit:
            told = f"gives an answer longer than {self._limit} bytes"
            raise AnswerTooLong(f"engine {self._url} {told}", told)
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


def ends_with_connection(response: httpx.Response) -> bool:
    """Whether nothing but the end of the connection says where the body ends, as in HTTP/1.0."""
    headers = response.headers
    return "content-length" not in headers and "chunked" not in headers.get("transfer-encoding", "").lower()


def broke_off(url: str, why: str) -> EngineBroken:
    """The answer has ended too early, or is none; ``why`` holds no address."""
    return EngineBroken(f"engine {url} broke off: {why}", f"broke off: {why}")


def engine_error(url: str, error: Exception) -> EngineError:
    """The failure of an exchange, under its name in `base`."""
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.UnsupportedProtocol():
            return EngineUnreachable(f"engine {url} cannot be reached: {error}", "cannot be reached")
        case httpx.TimeoutException():
            return EngineTimeout(f"engine {url} is silent: {error}", f"is silent: {error}")
        case _:
            return EngineBroken(f"engine {url} broke off: {error}", "broke off")


@contextmanager
def engine_errors(url: str) -> Generator[None]:
    """Raise the failures of httpx under their names in `base`."""
    try:
        yield
    except httpx.HTTPError as error:
        raise engine_error(url, error) from error
