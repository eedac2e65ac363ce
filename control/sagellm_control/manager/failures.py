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


def is_worth_another(status: int) -> bool:
    """Whether another engine may do better than answer with this status."""
    return status >= 500 or status in BUSY_STATUSES


def status_failure(status: int, body: bytes, *, stream: bool, engine_id: str = "") -> RequestFailed:
    """What an engine's error status comes to."""
    text = body.decode("utf-8", "replace")[:MOST_ERROR_TEXT]
    if stream:
        message = f"Stream error: {status}"
    else:
        message = f"{'Engine' if status >= 500 else 'Request'} error: {status} - {text}"
    code = _said_code(body) or _CODE_OF_STATUS.get(status)
    if code is None:
        code = ErrorCode.UNAVAILABLE if status >= 500 else ErrorCode.INVALID_ARGUMENT
    return RequestFailed(code, message, retryable=is_worth_another(status), engine_id=engine_id, status=status)


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


def said_error(payload: dict[str, Any]) -> RequestFailed | None:
    """The failure that a piece of a stream tells of, in OpenAI's form; None: it tells of none."""
    error = payload.get("error")
    if not error:
        return None
    fields = cast(dict[str, Any], error) if isinstance(error, dict) else {"message": str(error)}
    code = _code(fields.get("code")) or ErrorCode.UNAVAILABLE
    return RequestFailed(code, str(fields.get("message") or "the engine failed"), retryable=True)


def _said_code(body: bytes) -> ErrorCode | None:
    try:
        return _code(orjson.loads(body)["error"]["code"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def _code(word: object) -> ErrorCode | None:
    try:
        return ErrorCode(str(word).lower())
    except ValueError:
        return None
