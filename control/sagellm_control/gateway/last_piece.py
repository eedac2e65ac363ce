"""What a stream ends with that the client has a part of."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from ..wire.engine_error import error_said
from ..wire.event import EVENT_STREAM, Ending
from ..wire.states import Outcome
from .errors import Limits, error_object, from_ending


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
    return _engine_error_event(ending) or _error_event(ending, limits())


def holds_output(ending: Ending) -> bool:
    """Whether the body is output that was still on its way, and not an engine's error."""
    return ending.outcome in (Outcome.CANCELLED, Outcome.EXPIRED) or ending.content_type.startswith(EVENT_STREAM)


def _engine_error_event(ending: Ending) -> bytes | None:
    """What an engine has answered; None: it has said nothing."""
    try:
        error = orjson.loads(ending.body)
    except orjson.JSONDecodeError:
        error = None
    if not isinstance(error, dict) or "error" not in error:
        said = error_said(ending.body)
        if not said.message and ending.outcome is not Outcome.REFUSED:
            return None
        message = said.message or f"The engine answered {ending.status}."
        # The status itself went out with the first comment: clients that look for it find it in the code.
        error = error_object(
            ending.status,
            message,
            kind=said.type,
            code=ending.status if said.code is None else said.code,
            param=said.param,
        )
    return b"data: " + orjson.dumps(error) + b"\n\n"


def _error_event(ending: Ending, limits: Limits) -> bytes:
    return b"data: " + from_ending(ending, limits).body() + b"\n\n"
