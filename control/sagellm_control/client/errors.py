"""Why a request was not taken.

QueueError
├── UnknownModel        no pool of this name; lists the known ones
├── NoEngineReady       the pool is known, but none of its engines takes requests
├── QueueFull           too many wait already; says when to come back
├── RequestConflict     another request has this id
├── UnknownRequest      there is no request of this id (any more)
└── QueueUnavailable    Redis is away, or takes nothing (its memory or its disk is full)
"""

from __future__ import annotations

from collections.abc import Sequence


class QueueError(Exception):
    """The queue did not do what was asked; the text is for people."""


class UnknownModel(QueueError):
    """No pool serves the model."""

    def __init__(self, model: str, known: Sequence[str]) -> None:
        self.model = model
        self.known = sorted(known)
        shown = ", ".join(self.known) if self.known else "none: no engine has registered yet"
        super().__init__(f"The model {model!r} does not exist. Known models: {shown}.")


class NoEngineReady(QueueError):
    """No engine of the pool takes requests now."""

    def __init__(self, model: str, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"No engine for the model {model!r} is ready.")


class QueueFull(QueueError):
    """The pool's queue is full."""

    def __init__(self, model: str, waiting: int, retry_after_s: int) -> None:
        self.waiting = waiting
        self.retry_after_s = retry_after_s
        super().__init__(f"The queue of the model {model!r} is full: {waiting} requests wait.")


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
        super().__init__(f"The queue is not available: {reason}")
