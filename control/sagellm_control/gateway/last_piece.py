"""What a stream ends with that the client has a part of."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from ..wire.event import EVENT_STREAM, Ending
from ..wire.states import Outcome
from .errors import Limits, from_ending


def is_stream(ending: Ending) -> bool:
    """Whether what is left of the answer is the rest of a stream."""
    return ending.outcome is Outcome.COMPLETED and ending.content_type.startswith(EVENT_STREAM)


def last_piece(ending: Ending, limits: Callable[[], Limits]) -> bytes:
    """What a stream that has begun ends with: the last chunk, or an error event and no ``[DONE]``."""
    if is_stream(ending):
        return ending.body
    if ending.outcome is Outcome.COMPLETED:
        return b"data: " + ending.body.replace(b"\n", b" ") + b"\n\n"
    if holds_output(ending):
        return ending.body + _error_event(ending, limits())
    return _engine_error_event(ending.body) or _error_event(ending, limits())


def holds_output(ending: Ending) -> bool:
    """Whether the body is output that was still on its way, and not an engine's error."""
    return ending.outcome in (Outcome.CANCELLED, Outcome.EXPIRED) or ending.content_type.startswith(EVENT_STREAM)


def _engine_error_event(body: bytes) -> bytes | None:
    try:
        engine_error = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(engine_error, dict) or "error" not in engine_error:
        return None
    return b"data: " + orjson.dumps(engine_error) + b"\n\n"


def _error_event(ending: Ending, limits: Limits) -> bytes:
    return b"data: " + from_ending(ending, limits).body() + b"\n\n"
