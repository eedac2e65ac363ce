"""Errors as OpenAI's clients expect them: ``{"error": {"message", "type", "param", "code"}}`` and the right status."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson
from aiohttp import web
from redis.exceptions import AskError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..client.errors import (
    NoEngineReady,
    QueueError,
    QueueFull,
    QueueUnavailable,
    RequestConflict,
    TooLate,
    UnknownModel,
    UnknownRequest,
)
from ..wire.event import Ending
from ..wire.states import Reason

NO_ENGINE_YET_RETRY_S = 5
"""Until the first engine of all registers; one that loads a model takes many such."""
UNAVAILABLE_RETRY_S = 1
"""Redis is away: a client may come back soon, most outages are restarts."""
GATEWAY_STOPPING = "gateway_stopping"
DEADLINE_EXCEEDED = "deadline_exceeded"
STOPPING_RETRY_S = 1
"""This gateway waits no longer: another one may be there, or this one is being restarted."""

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    417: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    499: "cancelled_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}

COME_BACK = (429, 503)
"""Statuses that come with a Retry-After."""
_FINAL = (408, 409, 504)

Limits = Mapping[str, tuple[str, str | None]]
"""Code of an error -> a sentence that says the limit which it is about, and the header that sets it, if one does."""
_NO_LIMITS: Limits = MappingProxyType({})


class ApiError(Exception):
    """A refusal, as the client sees it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers: dict[str, str] = {}
        """What else the response says."""

    def name_limit(self, limits: Limits) -> None:
        """Say which limit it is about, if it is about one of these."""
        if self.code in limits:
            sentence, self.param = limits[self.code]
            self.message = f"{self.message} {sentence}"

    def body(self) -> bytes:
        """The JSON body."""
        return error_body(self.status, self.message, code=self.code, param=self.param)

    def response(self) -> web.Response:
        """The whole response."""
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["Retry-After"] = f"{max(1, round(self.retry_after_s))}"
        if self.status in _FINAL:
            # OpenAI's clients repeat these by themselves, which would hide the reason or wait out a deadline twice.
            headers["x-should-retry"] = "false"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return web.Response(status=self.status, body=self.body(), content_type="application/json", headers=headers)


class GatewayStopping(ApiError):
    """The gateway stops, and has waited for this request for as long as it may."""

    def __init__(self) -> None:
        super().__init__(
            503,
            "This gateway is being stopped and has not taken the request; send it to another one.",
            code=GATEWAY_STOPPING,
            retry_after_s=STOPPING_RETRY_S,
        )


def error_body(status: int, message: str, *, code: str, param: str | None = None) -> bytes:
    """An OpenAI error body."""
    return orjson.dumps(error_object(status, message, code=code or None, param=param))


def error_object(
    status: int, message: str, *, code: str | int | None, param: str | None = None, kind: str = ""
) -> dict[str, Any]:
    """An OpenAI error; its type is that of the status where no ``kind`` is given."""
    kind = kind or _TYPES.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad_request(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """A 400 that names the field."""
    return ApiError(400, message, code=code, param=param)


def too_large(limit: int) -> ApiError:
    """A body of more bytes than this."""
    return ApiError(413, f"The body is larger than {limit} bytes.", code="body_too_large", param=None)


def unknown_request(request_id: str) -> ApiError:
    """There is no request of this id, or it is not this caller's."""
    return ApiError(
        404,
        f"There is no request with the id {request_id!r}, or its result has expired.",
        code="request_not_found",
        param="id",
    )


def unavailable(reason: object) -> ApiError:
    """Redis is away, or takes nothing now; where it is, is none of a client's business (the log says it)."""
    away = isinstance(reason, RedisConnectionError | RedisTimeoutError | AskError | OSError)
    why = "Redis cannot be reached" if away else reason
    return ApiError(
        503, f"The queue is not available: {why}.", code="queue_unavailable", retry_after_s=UNAVAILABLE_RETRY_S
    )


def from_queue(error: QueueError) -> ApiError:
    """What a refusal of the queue means over HTTP."""
    match error:
        case UnknownModel(known=[]):
            # Its engine may be loading: a client that tries again comes back, which it does not after a 404.
            return ApiError(503, str(error), code=Reason.NO_ENGINE, retry_after_s=NO_ENGINE_YET_RETRY_S)
        case UnknownModel():
            return ApiError(404, str(error), code="model_not_found", param="model")
        case NoEngineReady():
            return ApiError(503, str(error), code=Reason.NO_ENGINE, retry_after_s=error.retry_after_s)
        case QueueFull():
            return ApiError(429, str(error), code=error.reason, retry_after_s=error.retry_after_s)
        case TooLate():
            return ApiError(503, str(error), code=Reason.TOO_LATE, retry_after_s=error.retry_after_s)
        case UnknownRequest():
            return unknown_request(error.request_id)
        case RequestConflict():
            return ApiError(
                409,
                f"{error} To get the same answer again, send an Idempotency-Key.",
                code="request_id_exists",
                param="X-Request-ID",
            )
        case QueueUnavailable():
            return unavailable(error.reason)
        case _:
            return ApiError(500, str(error), code="internal_error")


def from_ending(ending: Ending, limits: Limits = _NO_LIMITS) -> ApiError:
    """What an ending without a body of the engine's means over HTTP."""
    error = ApiError(
        ending.status,
        ending.message or "The request failed.",
        code=ending.code or str(ending.outcome),
        retry_after_s=ending.retry_after_s,
    )
    error.name_limit(limits)
    return error
