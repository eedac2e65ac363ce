"""Why a request was not taken.

QueueError
├── UnknownModel        no pool of this name; lists the known ones
├── NoEngineReady       the pool is known, but none of its engines takes requests
├── QueueFull           too many wait already, in all or of its class or tenant; says when to come back
├── TooLate             it could not meet its objective, and asked to be refused then
├── RequestConflict     another request has this id
├── UnknownRequest      there is no request of this id (any more)
└── QueueUnavailable    Redis is away, or takes nothing (its memory or its disk is full)
"""

from __future__ import annotations

from collections.abc import Sequence

from ..wire.states import Reason


class QueueError(Exception):
    """The queue did not do what was asked; the text is for people."""


class UnknownModel(QueueError):
    """No pool serves the model."""

    def __init__(self, model: str, known: Sequence[str]) -> None:
        self.model = model
        self.known = sorted(known)
        super().__init__(
            f"The model {model!r} does not exist. Known models: {', '.join(self.known)}."
            if self.known
            else f"The model {model!r} is not known: no engine has registered yet."
        )


class NoEngineReady(QueueError):
    """No engine of the pool takes requests now."""

    def __init__(self, model: str, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"No engine for the model {model!r} is ready.")


class QueueFull(QueueError):
    """The pool's queue is full, or what it holds of a class or a tenant is as much as it may."""

    def __init__(
        self, model: str, waiting: int, retry_after_s: int, reason: Reason = Reason.QUEUE_FULL, *, limit: int
    ) -> None:
        self.model = model
        self.waiting = waiting
        """Requests that wait in the whole pool."""
        self.retry_after_s = retry_after_s
        self.reason = reason
        self.limit = limit
        """Of the bound that it is about: requests, or bytes."""
        super().__init__(f"{_FULL[reason].format(model=model)}: {limit}.")


IN_BYTES = (Reason.QUEUE_BYTES_FULL, Reason.CLASS_BYTES_FULL, Reason.TENANT_BYTES_FULL)
"""Bounds on bytes; the others are on requests."""


_FULL = {
    Reason.QUEUE_FULL: "The queue of the model {model!r} is full: it holds as many requests as it may",
    Reason.QUEUE_BYTES_FULL: "The queue of the model {model!r} holds as many bytes as it may",
    Reason.CLASS_FULL: "The queue of the model {model!r} holds as many requests of this priority as it may",
    Reason.CLASS_BYTES_FULL: "The queue of the model {model!r} holds as many bytes of this priority as it may",
    Reason.TENANT_FULL: "As many requests of this tenant as may wait for the model {model!r} do",
    Reason.TENANT_BYTES_FULL: "As many bytes of this tenant as may wait for the model {model!r} do",
}


class TooLate(QueueError):
    """The request could not meet its objective for the first token, and was not to be served late."""

    def __init__(self, model: str, wait_s: float, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(
            f"The objective for the first token cannot be met: requests for {model!r} wait {wait_s:.1f} s now."
        )


class RequestConflict(QueueError):
    """A request of this id exists, and it is not this one."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        super().__init__(f"A request with the id {request_id!r} exists already.")


class UnknownRequest(QueueError):
    """There is no request of this id."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        super().__init__(f"There is no request with the id {request_id!r}.")


class QueueUnavailable(QueueError):
    """Redis is away, or takes nothing now."""

    def __init__(self, reason: object) -> None:
        self.reason = reason
        """The error that Redis, or the way to it, gave; or words."""
        super().__init__(f"The queue is not available: {reason}")
