"""A client of one engine at a time, for programs that choose their engines themselves.

EngineClientError
├── EngineTimeoutError        it was silent for too long; may be tried again
├── EngineUnavailableError    it could not be reached; may be tried again
└── EngineRequestError        it answered with an error status; 5xx, 408 and 429 may be tried again
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httpx
import orjson

from .engine_access import EngineHttpClient, engine_http_client, retry_after_s
from .types import EngineInfo

log = logging.getLogger(__name__)

COMPLETIONS_PATH = "/v1/completions"
STREAM_PATH = "/v1/completions/stream"
HEALTH_PATH = "/health"
HEALTH_TIMEOUT_S = 5.0
BUSY_STATUSES = frozenset({408, 429})
"""With these an engine says "not now"."""
MOST_ERROR_TEXT = 2000
"""Characters of an engine's error body that go into a message."""


class RetryPolicy(StrEnum):
    """How the pauses between attempts grow."""

    NONE = "none"
    EXPONENTIAL_BACKOFF = "exponential_backoff"
    LINEAR_BACKOFF = "linear_backoff"


@dataclass
class ClientConfig:
    """How long to wait and how often to try."""

    timeout_s: float = 60.0
    """Longest silence of the engine, each attempt."""
    connect_timeout_s: float = 5.0
    max_retries: int = 3
    """Attempts after the first one."""
    retry_policy: RetryPolicy = RetryPolicy.EXPONENTIAL_BACKOFF
    base_retry_delay_s: float = 0.5
    max_retry_delay_s: float = 10.0
    enable_failover: bool = True
    """Of the control plane's requests; a single client knows only the engine that it is given."""


@dataclass
class RequestContext:
    """What happens to a request on its way."""

    request_id: str
    trace_id: str
    start_time: float = field(default_factory=time.time)
    attempts: int = 0
    last_error: Exception | None = None
    engines_tried: list[str] = field(default_factory=list[str])


class EngineClientError(Exception):
    """The engine did not do what was asked."""

    def __init__(self, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class EngineTimeoutError(EngineClientError):
    """The engine was silent for too long."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


class EngineUnavailableError(EngineClientError):
    """The engine cannot be reached."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


class EngineRequestError(EngineClientError):
    """The engine answered with an error status."""

    def __init__(self, message: str, status_code: int) -> None:
        super().__init__(message, retryable=status_code >= 500 or status_code in BUSY_STATUSES)
        self.status_code = status_code
        self.retry_after_s: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.status_code), self.__dict__


class EngineClient:
    """Talks sageLLM's own wire, over connections that it keeps. After ``close`` it can be used again."""

    def __init__(self, config: ClientConfig | None = None) -> None:
        self.config = config or ClientConfig()
        self._http: EngineHttpClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def execute(
        self, engine: EngineInfo, request_data: Mapping[str, Any], context: RequestContext | None = None
    ) -> dict[str, Any]:
        """The engine's reply to ``POST /v1/completions``; tried again as the config says.

        Raises:
            EngineClientError: see the module.
        """
        attempt = 0
        while True:
            if context is not None:
                context.attempts += 1
                context.engines_tried.append(engine.engine_id)
            try:
                return await self._execute_once(engine, request_data, context)
            except EngineClientError as error:
                if context is not None:
                    context.last_error = error
                if not error.retryable or attempt >= self.config.max_retries:
                    raise
                pause_s = self._calculate_retry_delay(attempt)
                if isinstance(error, EngineRequestError) and error.retry_after_s is not None:
                    pause_s = min(max(pause_s, error.retry_after_s), self.config.max_retry_delay_s)
            attempt += 1
            await asyncio.sleep(pause_s)

    async def stream(
        self, engine: EngineInfo, request_data: Mapping[str, Any], context: RequestContext | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events of ``POST /v1/completions/stream``, as they come; never tried again.

        Raises:
            EngineClientError: see the module.
        """
        if context is not None:
            context.engines_tried.append(engine.engine_id)
        request = self._post(engine, STREAM_PATH, request_data, context, accept="text/event-stream")
        try:
            response = await self._client().send(request, stream=True)
            try:
                if response.status_code != 200:
                    raise EngineRequestError(f"Stream error: {response.status_code}", response.status_code)
                async for line in _lines(response):
                    if not line.startswith(b"data: "):
                        continue
                    data = line.removeprefix(b"data: ")
                    if data.strip() == b"[DONE]":
                        return
                    try:
                        yield orjson.loads(data)
                    except orjson.JSONDecodeError:
                        log.warning("engine %s: an event that is no JSON is skipped: %.200r", engine.engine_id, data)
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise _client_error(error, "Stream") from error

    async def health_check(self, engine: EngineInfo) -> bool:
        """Whether ``GET /health`` answers 200 within 5 s. Never raises."""
        return await self.healthy(engine, HEALTH_TIMEOUT_S)

    async def healthy(self, engine: EngineInfo, timeout_s: float) -> bool:
        """``health_check`` with a time limit (s) of the caller's."""
        try:
            async with asyncio.timeout(timeout_s):
                client = self._client()
                request = client.build_request("GET", engine.endpoint + HEALTH_PATH, extensions=self._limits(timeout_s))
                response = await client.send(request)
                return response.status_code == 200
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError):
            return False

    async def close(self) -> None:
        """Close the connections."""
        client, self._http = self._http, None
        if client is not None:
            await client.aclose()

    async def _execute_once(
        self, engine: EngineInfo, request_data: Mapping[str, Any], context: RequestContext | None
    ) -> dict[str, Any]:
        request = self._post(engine, COMPLETIONS_PATH, request_data, context, accept="application/json")
        try:
            response = await self._client().send(request)
        except httpx.HTTPError as error:
            raise _client_error(error, "Request") from error
        if response.status_code != 200:
            kind = "Engine" if response.status_code >= 500 else "Request"
            text = response.text[:MOST_ERROR_TEXT]
            failure = EngineRequestError(f"{kind} error: {response.status_code} - {text}", response.status_code)
            failure.retry_after_s = retry_after_s(response)
            raise failure
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            raise EngineClientError(f"Unreadable reply: {error}") from error

    def _post(
        self,
        engine: EngineInfo,
        path: str,
        request_data: Mapping[str, Any],
        context: RequestContext | None,
        *,
        accept: str,
    ) -> httpx.Request:
        headers = {
            "Content-Type": "application/json",
            "Accept": accept,
            "X-Request-ID": context.request_id if context else "unknown",
            "X-Trace-ID": context.trace_id if context else "unknown",
        }
        return self._client().build_request(
            "POST",
            engine.endpoint + path,
            content=orjson.dumps(request_data),
            headers=headers,
            extensions=self._limits(self.config.timeout_s),
        )

    def _limits(self, silence_s: float) -> dict[str, Any]:
        return {"timeout": {"connect": self.config.connect_timeout_s, "read": silence_s, "write": None, "pool": None}}

    def _client(self) -> EngineHttpClient:
        loop = asyncio.get_running_loop()
        if self._http is None or self._loop is not loop:
            # Connections belong to the loop on which they were made.
            self._http, self._loop = engine_http_client(), loop
        return self._http

    def _calculate_retry_delay(self, attempt: int) -> float:
        match self.config.retry_policy:
            case RetryPolicy.EXPONENTIAL_BACKOFF:
                delay_s = self.config.base_retry_delay_s * math.ldexp(1.0, min(attempt, 60))
            case RetryPolicy.LINEAR_BACKOFF:
                delay_s = self.config.base_retry_delay_s * (attempt + 1)
            case _:
                return 0.0
        return min(delay_s, self.config.max_retry_delay_s)


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body cut at line feeds alone: httpx also cuts at Unicode's separators, which may stand in an event's JSON."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
    yield rest


def _client_error(error: httpx.HTTPError, what: str) -> EngineClientError:
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout():
            return EngineUnavailableError(f"Connection failed: {error}")
        case httpx.TimeoutException():
            return EngineTimeoutError(f"{what} timed out: {error}")
        case _:
            return EngineClientError(f"HTTP error: {error}", retryable=True)
