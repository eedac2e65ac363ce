"""The endings that a step writes by itself, as payloads of an ``end`` event."""

from __future__ import annotations

from ...wire.event import Ending
from ...wire.states import Outcome, Reason

EXPIRED_WAITING = Ending(
    Outcome.EXPIRED,
    status=408,
    code="deadline_exceeded",
    message="The request's timeout passed while it waited for an engine.",
).encode()
EXPIRED_UNREAD = Ending(
    Outcome.EXPIRED,
    status=408,
    code="deadline_exceeded",
    message="The request's timeout passed before any scheduler had read it: "
    "more urgent ones came faster than they are read, or none runs.",
).encode()
EXPIRED_RUNNING = Ending(
    Outcome.EXPIRED,
    status=504,
    code="deadline_exceeded",
    message="The request's timeout passed before the engine had answered in full.",
).encode()
QUEUE_TTL = Ending(
    Outcome.EXPIRED,
    status=503,
    code=Reason.QUEUE_TTL,
    message="The request waited for as long as requests of its priority may wait for an engine.",
).encode()
TOO_LATE = Ending(
    Outcome.REJECTED,
    status=503,
    code=Reason.TOO_LATE,
    message="The request cannot meet its objective for the first token any more.",
).encode()
OVERLOADED = Ending(
    Outcome.REJECTED,
    status=503,
    code=Reason.OVERLOADED,
    message="The pool is overloaded, and the request has waited for too long.",
).encode()
CANCELLED = Ending(Outcome.CANCELLED, status=499, code="cancelled", message="The request was cancelled.").encode()
ORPHANED = Ending(
    Outcome.CANCELLED,
    status=499,
    code="cancelled",
    message="The request was cancelled: its gateway or its client is gone, and nobody came back for it.",
).encode()
CUT_OFF = Ending(
    Outcome.FAILED,
    status=502,
    code="engine_lost",
    message="The engine was lost in the middle of the answer.",
).encode()
DEAD = Ending(
    Outcome.DEAD,
    status=500,
    code="poison_request",
    message="Every worker that ran this request died; it was given up.",
).encode()
UNREADABLE = Ending(
    Outcome.DEAD,
    status=500,
    code="unreadable_record",
    message="The request's record in Redis cannot be read; it was given up.",
).encode()
