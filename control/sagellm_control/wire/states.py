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
    REJECTED = "rejected"
    """The queue gave it up before any engine had it: it would come too late, or a more urgent one came."""
    DEAD = "dead"
    """Its entry could not be read, or it kills its workers; a copy is in the dead stream."""


class Reason(StrEnum):
    """Why the queue does not take a request, or gives it up while it waits: the ``code`` that a client sees."""

    QUEUE_FULL = "queue_full"
    """So many requests wait in the pool."""
    QUEUE_BYTES_FULL = "queue_bytes_full"
    """The bodies of those that wait take so much memory."""
    CLASS_FULL = "class_full"
    """So many requests of its priority class wait."""
    CLASS_BYTES_FULL = "class_bytes_full"
    TENANT_FULL = "tenant_full"
    """So many requests of its tenant wait."""
    TENANT_BYTES_FULL = "tenant_bytes_full"
    NO_ENGINE = "no_engine"
    """No engine of the pool is READY."""
    TOO_LATE = "too_late"
    """It cannot meet its objective any more, and asked to be refused then (or the pool does)."""
    OVERLOADED = "overloaded"
    """It waited for too long in an overloaded pool."""
    DISPLACED = "displaced"
    """The queue was full, and a more urgent request took its place."""
    QUEUE_TTL = "queue_ttl_exceeded"
    """It waited for as long as its class may wait."""


class EngineState(StrEnum):
    """The life of an engine."""

    STARTING = "STARTING"
    READY = "READY"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"
    ERROR = "ERROR"


class Stage(StrEnum):
    """Which part of a request an assignment is for, where prefill and decode are separated."""

    WHOLE = ""
    PREFILL = "prefill"
    """Its prompt is read, and kept for the engine that decodes. Of engines that hold a request together (SGLang), the
    prompt is a request of its own, submitted by the worker of the engine that decodes."""
    DECODE = "decode"
    """Its prompt has been read elsewhere."""


class RequestKind(StrEnum):
    """Which endpoint a request is for."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RESERVATION = "reservation"
    """None: a place that a program holds, which runs its request on the engine itself."""
    VECTOR_RESERVATION = "vector_reservation"
    """The same on an engine that makes vectors."""


RESERVATIONS = frozenset({RequestKind.RESERVATION, RequestKind.VECTOR_RESERVATION})
