"""What programs pass in, and what they get out where something fails."""

from __future__ import annotations

from typing import cast

from sagellm_protocol import ErrorCode

from ..engine_client import EngineClientError, EngineRequestError, EngineTimeoutError, EngineUnavailableError
from ..types import EngineState, RequestPriority
from .backend import RequestFailed


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
