"""Error statuses and broken connections as failures with the protocol's codes."""

from __future__ import annotations

from typing import Any, cast

import orjson
from sagellm_protocol import ErrorCode

from ..engine_client import BUSY_STATUSES, MOST_ERROR_TEXT
from .backend import RequestFailed

_CODE_OF_STATUS = {
    408: ErrorCode.DEADLINE_EXCEEDED,
    429: ErrorCode.RESOURCE_EXHAUSTED,
    501: ErrorCode.NOT_IMPLEMENTED,
    504: ErrorCode.DEADLINE_EXCEEDED,
}


def status_failure(status: int, body: bytes, *, stream: bool, engine_id: str = "") -> RequestFailed:
    """What an engine's error status comes to."""
    said = _json_fields(body)
    extra = _fields(said.get("sagellm"))
    if "error" in extra and (told := said_error(said, engine_id=engine_id, status=status)):
        return told  # its reply had no error status, and told of the failure itself
    text = str(extra.get("body") or body.decode("utf-8", "replace"))[:MOST_ERROR_TEXT]
    if stream:
        message = f"Stream error: {status}"
    else:
        message = f"{'Engine' if status >= 500 else 'Request'} error: {status} - {text}"
    code = _code(_fields(said.get("error")).get("code")) or _CODE_OF_STATUS.get(status)
    if code is None:
        code = ErrorCode.UNAVAILABLE if status >= 500 else ErrorCode.INVALID_ARGUMENT
    retryable = status >= 500 or status in BUSY_STATUSES
    return RequestFailed(code, message, retryable=retryable, engine_id=engine_id, status=status)


def deadline_failure(timeout_s: float | None) -> RequestFailed:
    """The request's time is over."""
    limit = f" of {timeout_s:g} s" if timeout_s else ""
    return RequestFailed(ErrorCode.DEADLINE_EXCEEDED, f"The request's timeout{limit} has passed", retryable=True)


def objective_failure(slo_ms: int) -> RequestFailed:
    """It would have been served too late, and wanted rather not to be served then."""
    text = f"The objective of {slo_ms} ms for the first token cannot be met"
    return RequestFailed(ErrorCode.DEADLINE_EXCEEDED, text, retryable=True)


def unavailable(message: str, *, engine_id: str = "") -> RequestFailed:
    """No engine could do it."""
    return RequestFailed(ErrorCode.UNAVAILABLE, message, retryable=True, engine_id=engine_id)


def queue_full(model: str, waiting: int) -> RequestFailed:
    """So many wait already."""
    return RequestFailed(
        ErrorCode.RESOURCE_EXHAUSTED, f"The queue of model {model} is full: {waiting} requests wait", retryable=True
    )


def said_error(payload: dict[str, Any], *, engine_id: str = "", status: int = 0) -> RequestFailed | None:
    """The failure that a reply or a piece of a stream tells of, in OpenAI's form; None: it tells of none."""
    error = payload.get("error")
    if not error:
        return None
    fields = _fields(error) or {"message": str(error)}
    code = _code(fields.get("code")) or ErrorCode.UNAVAILABLE
    message = str(fields.get("message") or "the engine failed")
    retryable = _fields(_fields(payload.get("sagellm")).get("error")).get("retryable")
    if not isinstance(retryable, bool):
        retryable = code is not ErrorCode.INVALID_ARGUMENT
    return RequestFailed(code, message, retryable=retryable, engine_id=engine_id, status=status)


def _json_fields(body: bytes) -> dict[str, Any]:
    try:
        return _fields(orjson.loads(body))
    except orjson.JSONDecodeError:
        return {}


def _fields(value: object) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _code(word: object) -> ErrorCode | None:
    try:
        return ErrorCode(str(word).lower())
    except ValueError:
        return None
