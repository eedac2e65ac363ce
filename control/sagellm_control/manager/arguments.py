"""What programs pass in, and what they get out where something fails."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

from sagellm_protocol import ErrorCode, Request

from ..engine_client import EngineClientError, EngineRequestError, EngineTimeoutError, EngineUnavailableError
from ..types import EngineState, RequestPriority, RequestType
from ..wire.request import CHARACTERS_A_TOKEN
from .backend import RequestFailed, Wish


def engine_state(state: object) -> EngineState:
    """The state, also where its name is given. Raises ValueError."""
    try:
        return EngineState(cast(str, state))
    except ValueError:
        names = ", ".join(EngineState)
        raise ValueError(f"state must be an EngineState ({names}), not {state!r}") from None


def request_priority(priority: object) -> RequestPriority:
    """The class; what is out of range counts as the nearest one."""
    if isinstance(priority, RequestPriority):
        return priority
    if isinstance(priority, int):
        return RequestPriority(min(max(priority, RequestPriority.CRITICAL), RequestPriority.BACKGROUND))
    return RequestPriority.parse(str(priority)) if isinstance(priority, str) else RequestPriority.NORMAL


def scheduling_wish(
    *,
    request_id: str,
    trace_id: str,
    model_id: str,
    prompt: str,
    max_tokens: int,
    priority: object,
    request_type: RequestType,
    deadline_ms: float | None,
) -> Wish:
    """What ``schedule_request`` is asked for; what is missing or negative does not count.

    Raises:
        TypeError: names the argument.
    """
    if not isinstance(prompt, str | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"prompt must be a string, not {prompt!r}")
    limit_ms = number("deadline_ms", deadline_ms or 0)
    return Wish(
        request_id=request_id,
        trace_id=trace_id,
        model=model_id,
        request_type=request_type,
        priority=request_priority(priority),
        prompt_tokens=len(prompt or "") // CHARACTERS_A_TOKEN,
        max_tokens=int(max(0, number("max_tokens", max_tokens or 0))),
        deadline_ms=limit_ms if limit_ms > 0 else None,
    )


def number(name: str, value: object) -> float:
    """A finite number. Raises TypeError, ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
    return value


def protocol_request(request: object) -> Request:
    """A request of the protocol. Raises TypeError."""
    if not isinstance(request, Request):
        raise TypeError(f"request must be a sagellm_protocol.Request, not {request!r}")
    return request


def texts_to_embed(texts: object) -> list[str]:
    """A list of strings. Raises TypeError."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a list of strings, not {texts!r}")
    found = list(cast(Iterable[object], texts))
    for at, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"texts[{at}] must be a string, not {text!r}")
    return cast(list[str], found)


def client_error(failure: RequestFailed) -> EngineClientError:
    """A failure as the error that programs know from ``EngineClient``."""
    if failure.status:
        error = EngineRequestError(str(failure), failure.status)
        error.retryable = failure.retryable
        return error
    if failure.code == ErrorCode.DEADLINE_EXCEEDED:
        return EngineTimeoutError(str(failure))
    if failure.code == ErrorCode.UNAVAILABLE:
        return EngineUnavailableError(str(failure))
    return EngineClientError(str(failure), retryable=failure.retryable)
