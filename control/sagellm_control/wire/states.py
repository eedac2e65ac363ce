"""Where a request or an engine can be, and how a request can end. All enums here are closed."""

from __future__ import annotations

from enum import StrEnum


class RequestState(StrEnum):
    """The one place that an accepted request is in."""

    QUEUED = "queued"
    """In the intake stream of its priority: no scheduler has ranked it yet."""
    WAITING = "waiting"
    """In the pool's waiting set, under its rank."""
    ASSIGNED = "assigned"
    """In one engine's assigned stream; its worker has not said yet that it runs."""
    RUNNING = "running"
    """Claimed by the worker of its engine."""
    FINISHED = "finished"
    """It has its outcome."""


class Outcome(StrEnum):
    """How an accepted request ended."""

    COMPLETED = "completed"
    """The engine answered in full."""
    REFUSED = "refused"
    """The engine refused it (4xx); its answer was passed on as it was."""
    FAILED = "failed"
    """No engine could answer it."""
    CANCELLED = "cancelled"
    """Its client left, or somebody cancelled it."""
    EXPIRED = "expired"
    """Its timeout passed."""
    DEAD = "dead"
    """Its entry could not be read, or it kills its workers; a copy is in the dead stream."""


class EngineState(StrEnum):
    """The life of an engine."""

    STARTING = "STARTING"
    READY = "READY"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"
    ERROR = "ERROR"


class RequestKind(StrEnum):
    """Which endpoint a request is for."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RESERVATION = "reservation"
    """None: a place that a program holds, which runs its request on the engine itself."""
