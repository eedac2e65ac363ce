"""How long a client waits for the end of a request, and what is over then: the request, or only this client's wait."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from redis.exceptions import RedisError

from ..client.submission import Submission
from ..store.connect import Store
from ..store.views import RequestView, find_requests
from ..wire.states import RequestState
from .errors import Limits
from .time_limits import limits_of_record

LEAST_WAIT_S = 1.0
"""One whose timeout has just passed is given so long to end by itself."""


@dataclass(slots=True, frozen=True)
class Patience:
    """Of one client with one request."""

    until: float
    """On the monotonic clock; inf: for ever."""
    limits: Callable[[], Limits]
    """The request's; asked where one of them may have ended it."""
    own_limits: Callable[[], Limits] | None = None
    """None: ``until`` is the request's own timeout. Else those of the client, whose time may pass before: the request
    goes on then, for whoever else waits or comes back."""


def patience_by_record(view: RequestView) -> Patience:
    """As long as the request itself may take, whoever waits for it."""
    limits = partial(limits_of_record, view.fields)
    timeout_ms = float(view.fields.get("timeout_ms") or 0)
    if not timeout_ms or view.state is RequestState.FINISHED:
        return Patience(math.inf, limits)
    return Patience(time.monotonic() + max(LEAST_WAIT_S, timeout_ms / 1000 - view.age_s), limits)


async def patience_of_retry(store: Store, submission: Submission, own: Patience) -> Patience:
    """Of a client that has sent again a request that was there already: no longer than it says itself, and nobody else
    is to lose the answer by that."""
    with suppress(RedisError, OSError):
        for view in await find_requests(store, submission.request_id):
            if view.pool == submission.pool:
                return _shorter(patience_by_record(view), own)
    return replace(own, own_limits=own.limits)


def _shorter(of_request: Patience, own: Patience) -> Patience:
    return of_request if of_request.until <= own.until else replace(of_request, until=own.until, own_limits=own.limits)
