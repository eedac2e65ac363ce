"""The one HTTP client with which a worker talks to its engines.

An `httpx.AsyncClient` on aiohttp's connections, which carry two to three times the requests of httpx's own; with what a
worker needs changed:

* No limit on connections (an engine's slots are the limit), no redirects, no cookies kept: one session
  serves many.
* Proxy variables of the environment are ignored unless asked for: an engine is a neighbour, often on
  loopback.
* The certificate of an https engine has to be of an authority that the machine trusts, or of `SSL_CERT_FILE`.
* A kept connection that turns out to be dead is replaced, once, by a new one: llama.cpp announces
  keep-alive after a streamed answer and then closes.
* The wait for the first byte of an answer and every later gap between bytes have limits of their own: a
  prompt may be worked on for minutes, while a stream that has begun should not fall silent. What
  only keeps a connection alive does not count: the server of an engine that hangs may go on with it.
* `send` leaves out httpx's flows for authentication, redirects and cookies, and a request of an adapter's goes
  the short way to its engine (see `destination`).
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
from httpx import USE_CLIENT_DEFAULT

from .connector import ConnectionUse, EngineConnector, current_use
from .destination import Destination, ShortAnswer
from .keep_alive import only_keeps_alive

KEEPALIVE_S = 4.0  # uvicorn (vLLM, SGLang, sageLLM) closes an idle connection after 5 s: let it go before that
UNREAD_LOOK_S = 1.0  # how soon to look again at an answer that nobody was reading
BIG_BODY_BYTES = 2**20  # from here on a body is written in pieces, so that it does not hold up the event loop

FIRST_BYTE_EXTENSION = "first_byte_s"  # key of a request's extensions: longest wait for the first byte of the body


def engine_client(*, trust_env: bool = False) -> EngineClient:
    """The client to share among all engines of a process; close it with `async with` or `aclose()`.

    `trust_env`: reach engines through the proxies that HTTP_PROXY and its kin name.
    """
    return EngineClient(EngineTransport(trust_env=trust_env))


class EngineClient(httpx.AsyncClient):
    """httpx's client without what an engine never needs between `send` and the wire."""

    def __init__(self, transport: EngineTransport) -> None:
        super().__init__(transport=transport, trust_env=False, follow_redirects=False)
        self.transport = transport

    async def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: Any = USE_CLIENT_DEFAULT,
        follow_redirects: Any = USE_CLIENT_DEFAULT,
    ) -> httpx.Response:
        """Send `request` as it is. `auth` and `follow_redirects` are there for the signature only."""
        if self.is_closed:
            raise RuntimeError("the engine client has been closed")
        response = await self.transport.handle_async_request(request)
        if stream:
            return response
        try:
            await response.aread()
        finally:
            await response.aclose()
        return response


class EngineTransport(httpx.AsyncBaseTransport):
    """Two aiohttp sessions: one that keeps connections, and one that never does, for the second try.

    What needs a session goes through it: a proxy, a big body, a body that is not at hand. All else only uses the
    connections of the first.

    Reads from `request.extensions`: `timeout` (httpx's: `connect`, and `read` for the gap between bytes) and
    `first_byte_s`, counted from the start of the request.
    """

    def __init__(self, *, trust_env: bool = False) -> None:
        self._trust_env = trust_env
        self._sessions: dict[bool, aiohttp.ClientSession] = {}  # they belong to an event loop: made at first use
        self._destinations: dict[str, Destination] = {}  # by URL: a few an engine
        self._limits: dict[float | None, aiohttp.ClientTimeout] = {}
        self.dead_connections = 0  # kept connections that were found dead and replaced

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        timeout: dict[str, float | None] = request.extensions.get("timeout") or {}
        first_byte_s: float | None = request.extensions.get(FIRST_BYTE_EXTENSION, timeout.get("read"))
        now = asyncio.get_running_loop().time()
        deadline = None if first_byte_s is None else now + first_byte_s
        limits = self._connect_limits(timeout.get("connect"), first_byte_s)
        use = ConnectionUse(now)
        token = current_use.set(use)
        try:
            try:
                body = request.stream
                if isinstance(body, RequestBody) and len(body.content) <= BIG_BODY_BYTES and not self._trust_env:
                    answer = await self._destination(str(request.url)).ask(request, body.content, limits, deadline)
                else:
                    answer = await self._ask(request, limits, deadline, kept=True)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError) as error:
                if not use.died_unnoticed(error):
                    raise
                self.dead_connections += 1
                answer = await self._ask(request, limits, deadline, kept=False)
        except TimeoutError as error:
            if isinstance(error, aiohttp.ClientError):
                raise as_httpx(error) from error
            raise httpx.ReadTimeout(f"no answer within {first_byte_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise as_httpx(error) from error
        finally:
            current_use.reset(token)
        headers = answer.raw_headers
        if "Content-Encoding" in answer.headers:  # aiohttp has undone it, though nobody asked for it
            headers = tuple(header for header in headers if header[0].lower() != b"content-encoding")
        stream = EngineBody(answer, deadline, timeout.get("read"))
        return httpx.Response(answer.status, headers=headers, stream=stream, request=request)

    async def aclose(self) -> None:
        self._destinations.clear()
        while self._sessions:
            await self._sessions.popitem()[1].close()

    async def _ask(
        self, request: httpx.Request, limits: aiohttp.ClientTimeout, deadline: float | None, *, kept: bool
    ) -> aiohttp.ClientResponse:
        stream = request.stream
        content = stream.content if isinstance(stream, RequestBody) else await request.aread()
        # A second try needs a second BytesIO: aiohttp closes the one it was given.
        body = io.BytesIO(content) if len(content) > BIG_BODY_BYTES else content or None
        async with asyncio.timeout_at(deadline):
            return await self._session(kept=kept).request(
                request.method,
                str(request.url),
                headers=[(name.decode(), value.decode("latin-1")) for name, value in request.headers.raw],
                data=body,
                allow_redirects=False,
                timeout=limits,
            )

    def _connect_limits(self, connect_s: float | None, first_byte_s: float | None) -> aiohttp.ClientTimeout:
        if first_byte_s is not None and (connect_s is None or first_byte_s < connect_s):
            connect_s = first_byte_s  # it passes while the connection is made
        limits = self._limits.get(connect_s)
        if limits is None:
            limits = self._limits[connect_s] = aiohttp.ClientTimeout(total=None, connect=connect_s)
        return limits

    def _destination(self, url: str) -> Destination:
        destination = self._destinations.get(url)
        if destination is None:
            connector = self._session(kept=True).connector
            assert connector is not None
            destination = self._destinations[url] = Destination(url, connector)
        return destination

    def _session(self, *, kept: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(kept)
        if session is None:
            connections: dict[str, Any] = {"keepalive_timeout": KEEPALIVE_S} if kept else {"force_close": True}
            session = self._sessions[kept] = aiohttp.ClientSession(
                connector=EngineConnector(limit=0, **connections),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=self._trust_env,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            )
        return session


class RequestBody(httpx.AsyncByteStream):
    """A body that is at hand. Unlike `Request(content=…)` it spares httpx the search for headers."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.content


class EngineBody(httpx.AsyncByteStream):
    """The body of an answer, in the pieces in which it comes. Closing it before its end cuts the connection.

    One timer an answer watches the silences, not one a piece: it looks how long the current wait has lasted
    and sleeps again. A pause that our own reader makes is no silence of the engine's.
    """

    def __init__(
        self, answer: aiohttp.ClientResponse | ShortAnswer, first_byte_at: float | None, gap_s: float | None
    ) -> None:
        self._answer = answer
        self._content = answer.content
        self._loop = asyncio.get_running_loop()
        self._first_byte_at = first_byte_at
        self._gap_s = gap_s
        self._taken = 0  # bytes of it that have been given
        self._waiting_since: float | None = None
        self._silent_since: float | None = None  # when the wait began that has brought nothing but comments
        self._watch: asyncio.TimerHandle | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        content = self._content
        try:
            if content.is_eof() or content.total_bytes > self._taken:
                chunk = content.read_nowait()  # what is there already needs no watch
            else:
                self._waiting_since = self._silent_since or self._loop.time()
                if self._watch is None:
                    self._look()
                chunk = await content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise as_httpx(error) from error
        finally:
            waited_since, self._waiting_since = self._waiting_since, None
        if not chunk:
            raise StopAsyncIteration
        self._taken += len(chunk)
        if only_keeps_alive(chunk):
            self._silent_since = self._silent_since or waited_since
            return chunk
        self._silent_since = None
        if self._first_byte_at is not None:
            self._first_byte_at = None  # from now on gaps are watched
            self._stop_watch()
        return chunk

    async def aclose(self) -> None:
        self._stop_watch()
        if self._content.is_eof() and self._content.exception() is None:
            self._answer.release()
            return
        connection = self._answer.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()  # close() would wait until the engine has read what we send
        self._answer.close()

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self) -> None:
        now = self._loop.time()
        if self._waiting_since is None:
            due, silence = now + UNREAD_LOOK_S, ""  # what we wait for may lie there unread
        elif self._first_byte_at is not None:
            due, silence = self._first_byte_at, "no byte of the answer in time"
        elif self._gap_s is not None:
            due, silence = self._waiting_since + self._gap_s, f"no further byte for {self._gap_s:g} s"
        else:
            return
        if now < due:
            self._watch = self._loop.call_at(due, self._look)
        else:
            self._content.set_exception(aiohttp.SocketTimeoutError(silence))


def as_httpx(error: Exception) -> httpx.TransportError:
    """httpx's name for what aiohttp raised."""
    text = str(error) or type(error).__name__
    match error:
        case aiohttp.ConnectionTimeoutError():
            return httpx.ConnectTimeout(text)
        case aiohttp.ServerTimeoutError():
            return httpx.ReadTimeout(text)
        case aiohttp.ClientSSLError():
            return httpx.ConnectError(text)
        case aiohttp.ClientConnectorError(os_error=why):
            # aiohttp's own words say the address twice, and "ssl" whether or not there is any.
            return httpx.ConnectError(
                os.strerror(why.errno) if why.errno and why.errno > 0 else why.strerror or str(why)
            )
        case aiohttp.InvalidURL():
            return httpx.UnsupportedProtocol(text)
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError() | OSError():
            return httpx.ReadError(text)
        case _:
            return httpx.RemoteProtocolError(text)
