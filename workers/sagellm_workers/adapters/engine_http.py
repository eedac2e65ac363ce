"""HTTP with one engine: requests with its limits and key, failures under our names, answers as replies."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, TypedDict, Unpack

import httpx
import orjson

from ..http.transport import FIRST_BYTE_EXTENSION, RequestBody
from .base import (
    EngineBroken,
    EngineCall,
    EngineReply,
    EngineTimeout,
    EngineUnreachable,
    is_event_stream,
)
from .chunks import BODY_LIMIT_BYTES, EventChunks, PlainChunks, engine_error, engine_errors
from .engine_url import engine_root
from .loose_json import mapping
from .stream_beginning import may_be_stream, recognise

CONNECT_TIMEOUT_S = 5.0
FIRST_BYTE_TIMEOUT_S = 600.0  # a long prompt in front of a busy engine
GAP_TIMEOUT_S = 120.0  # between two bytes of an answer: engines that work hard preempt and swap
PROBE_TIMEOUT_S = 5.0
HEALTH_TIMEOUT_S = 4.0  # SGLang's /health generates a token, and looks only once a second whether it came
PROBE_LIMIT_BYTES = 8 * 2**20  # of an answer about the engine: vLLM's /metrics has some 100 kB


@dataclass(frozen=True, slots=True)
class Answer:
    """What a GET brought: the status and the whole body."""

    status: int
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is none, or if the status is not 200."""
        if self.status != 200:
            return {}
        try:
            return mapping(orjson.loads(self.body))
        except orjson.JSONDecodeError:
            return {}


class EngineOptions(TypedDict, total=False):
    """What the constructors of all adapters take by name."""

    api_key: str | None  # sent as `Authorization: Bearer …`
    pass_priority: bool  # to engines that know priorities
    connect_timeout_s: float
    first_byte_timeout_s: float  # from the start of the request to the first byte of the answer's body
    gap_timeout_s: float  # between two bytes of the body
    health_timeout_s: float  # for the answer to a health probe
    answer_limit_bytes: int  # of a whole answer, streamed or not


class EngineHttp:
    """One engine's address, key and limits."""

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient,
        **options: Unpack[EngineOptions],
    ) -> None:
        self.url = engine_root(url)
        self.client = client
        self.heard_at = -math.inf
        """When a part of any answer to a request came last (monotonic)."""
        self._health_timeout_s = options.get("health_timeout_s", HEALTH_TIMEOUT_S)
        self._connect_timeout_s = options.get("connect_timeout_s", CONNECT_TIMEOUT_S)
        self._extensions = _extensions(
            self._connect_timeout_s,
            options.get("first_byte_timeout_s", FIRST_BYTE_TIMEOUT_S),
            options.get("gap_timeout_s", GAP_TIMEOUT_S),
        )
        self.answer_limit_bytes = options.get("answer_limit_bytes", BODY_LIMIT_BYTES)
        headers = {
            "Host": httpx.URL(self.url).netloc.decode("ascii"),
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",  # bytes go through as they come
            "User-Agent": "sagellm-control-worker",
        }
        api_key = options.get("api_key")
        if api_key:
            if not (api_key.isascii() and api_key.isprintable()):
                raise ValueError(f"api_key for engine {self.url}: printable ASCII only")
            headers["Authorization"] = f"Bearer {api_key}"
        self._headers = httpx.Headers(headers | {"Accept": "application/json"})
        self._stream_headers = httpx.Headers(headers | {"Accept": "text/event-stream"})

    def address(self, path: str) -> httpx.URL:
        return httpx.URL(self.url + path)

    async def send(self, address: httpx.URL, call: EngineCall, body: bytes) -> httpx.Response:
        """POST `body` and give the answer, headers read; whoever gets it closes it.

        Raises EngineUnreachable, EngineTimeout, EngineBroken.
        """
        prepared = self._stream_headers if call.stream else self._headers
        request = httpx.Request(
            "POST", address, headers=prepared, stream=RequestBody(body), extensions=self._extensions
        )
        trace = call.trace
        for name, value in (
            ("X-Request-ID", call.sent_id),
            ("X-Trace-ID", trace.trace_id),
            ("traceparent", trace.traceparent),
            ("tracestate", trace.tracestate),
        ):
            # Ids come from clients: one that could not stand in a header, or would end it, is not passed on.
            if value and value.isascii() and value.isprintable():
                request.headers[name] = value
        request.headers["Content-Length"] = str(len(body))
        try:
            response = await self.client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise engine_error(self.url, error) from error
        if 300 <= response.status_code < 400:
            # Followed, a POST could become a GET, and the key go elsewhere.
            await response.aclose()
            where = response.headers.get("location", "nowhere")
            text = f"engine {self.url} redirects to {where}: give that address instead"
            raise EngineBroken(text, "redirects to another address")
        return response

    @asynccontextmanager
    async def post(self, address: httpx.URL, call: EngineCall, body: bytes) -> AsyncGenerator[httpx.Response]:
        """As `send`; leaving the context ends the exchange."""
        response = await self.send(address, call, body)
        try:
            yield response
        finally:
            await response.aclose()

    async def get(self, path: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> Answer:
        """GET a small answer. Raises EngineUnreachable, also when it does not come in time or is cut."""
        request = httpx.Request(
            "GET",
            self.address(path),
            headers=self._headers,
            extensions=_extensions(min(self._connect_timeout_s, timeout_s), timeout_s, timeout_s),
        )
        try:
            async with asyncio.timeout(timeout_s):
                with engine_errors(self.url):
                    response = await self.client.send(request, stream=True)
                try:
                    chunks = PlainChunks(self.url, response, PROBE_LIMIT_BYTES)
                    body = b"".join([piece async for piece in chunks])
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise EngineUnreachable(f"engine {self.url} did not answer GET {path} within {timeout_s:g} s") from error
        except (EngineTimeout, EngineBroken) as error:
            raise EngineUnreachable(f"{error} (GET {path})") from error
        return Answer(response.status_code, body)

    async def healthy(self) -> Answer | None:
        """The answer to /health if it is 200; of engines without a /health (Ollama) that to /v1/models."""
        timeout_s = self._health_timeout_s
        try:
            answer = await self.get("/health", timeout_s=timeout_s)
            if answer.status in (404, 405, 501):
                answer = await self.get("/v1/models", timeout_s=timeout_s)
        except (EngineUnreachable, RuntimeError):  # RuntimeError: the client was closed meanwhile
            return None
        return answer if answer.status == 200 else None

    def reply(self, response: httpx.Response) -> EngineReply:
        """The answer as it is."""
        content_type = response.headers.get("content-type", "")
        # An error's body need not hold to what its type says: it is read as a whole.
        streamed = is_event_stream(content_type) and response.status_code < 400
        kind = EventChunks if streamed else PlainChunks
        chunks = kind(self.url, response, self.answer_limit_bytes, self._heard)
        # Only an error asks for a pause.
        pause_s = retry_after_s(response) if response.status_code >= 400 else None
        return EngineReply(response.status_code, content_type, pause_s, chunks)

    def _heard(self) -> None:
        self.heard_at = time.monotonic()


class Exchange:
    """One request and the reply as it is; leaving the context ends the exchange.

    No generator, as all calls go through here: entering and leaving one takes twice as long.
    """

    def __init__(self, http: EngineHttp, address: httpx.URL, call: EngineCall, body: bytes) -> None:
        self._http = http
        self._asked = (address, call, body)
        self._response: httpx.Response | None = None

    async def __aenter__(self) -> EngineReply:
        self._response = response = await self._http.send(*self._asked)
        try:
            reply = self._http.reply(response)
            if self._asked[1].stream and not reply.is_event_stream and may_be_stream(response):
                with engine_errors(self._http.url):
                    await recognise(response)
                reply = self._http.reply(response)
            return reply
        except BaseException:
            await response.aclose()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._response is not None:
            await self._response.aclose()


def retry_after_s(response: httpx.Response) -> float | None:
    """Seconds that the engine asks us to stay away, from either form of Retry-After."""
    value = response.headers.get("retry-after")
    if value is None:
        return None
    with suppress(ValueError):
        seconds = float(value)
        return seconds if 0 <= seconds < math.inf else None
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max((when - datetime.now(UTC)).total_seconds(), 0.0)


def _extensions(connect_s: float, first_byte_s: float, gap_s: float) -> dict[str, Any]:
    timeout = {"connect": connect_s, "read": gap_s, "write": None, "pool": None}
    return {"timeout": timeout, FIRST_BYTE_EXTENSION: first_byte_s}
