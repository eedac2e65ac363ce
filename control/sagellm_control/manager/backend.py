"""What the manager needs of the place where its state lives; one conformance suite holds for all of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from sagellm_protocol import Error, ErrorCode

from ..client.scheduling_hints import SchedulingHints
from ..types import EngineInfo, RequestStatus, RequestType, SchedulingDecision
from ..wire.priority import RequestPriority
from ..wire.states import EngineState, RequestKind
from .board import EngineBoard
from .load import Misses

TOO_LATE = "The deadline passed while it waited"
ASKED_AGAIN_S = 60.0
"""A caller that waits is expected to ask again within this; a place that is held for it is then given on."""


@dataclass(slots=True)
class Job:
    """A request to be run."""

    request_id: str
    trace_id: str
    model: str
    kind: RequestKind
    body: bytes
    """OpenAI's JSON."""
    stream: bool = False
    continuable: bool = False
    """Another engine may go on with its stream."""
    priority: RequestPriority = RequestPriority.NORMAL
    tenant: str = ""
    timeout_s: float | None = None
    """From now to the last byte."""
    slo_ms: int = 0
    prompt_tokens: int = 0
    """Estimate."""
    max_tokens: int = 0
    hints: SchedulingHints = field(default_factory=SchedulingHints)


@dataclass(slots=True)
class Wish:
    """A request that its caller runs itself, once it knows on which engine."""

    request_id: str
    trace_id: str
    model: str
    request_type: RequestType
    priority: RequestPriority
    prompt_tokens: int
    max_tokens: int
    deadline_ms: float | None


@dataclass(slots=True)
class Reply:
    """What an engine answered, in OpenAI's words."""

    engine_id: str
    body: bytes


@dataclass(slots=True)
class Piece:
    """Some of a streamed answer: whole server-sent events, or the body of an answer that was not streamed."""

    engine_id: str
    data: bytes
    events: bool = True


class RequestFailed(Exception):
    """The request did not work out."""

    def __init__(self, code: ErrorCode, message: str, *, retryable: bool, engine_id: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        """The engine's HTTP status, where it answered with an error."""
        self.retryable = retryable
        self.engine_id = engine_id

    def as_error(self) -> Error:
        """In the protocol's words."""
        return Error(code=self.code, message=str(self), retryable=self.retryable)


class Backend(Protocol):
    """Engines, the line of those that wait, and the running of requests."""

    board: EngineBoard
    """All engines that are known, live."""
    misses: Misses
    """Objectives missed by this manager's requests."""

    async def start(self) -> None:
        """Begin to watch the engines. May be called again after ``stop``."""
        ...

    async def stop(self) -> None:
        """Watch no more; engine states and what is under way stay as they are."""
        ...

    def register(self, info: EngineInfo) -> None:
        """A new engine, on the board already."""
        ...

    def unregister(self, info: EngineInfo) -> None:
        """An engine goes; what it runs is finished."""
        ...

    def set_state(self, info: EngineInfo, state: EngineState) -> None:
        """Somebody says which state the engine is in."""
        ...

    async def schedule(self, wish: Wish) -> SchedulingDecision:
        """A place on an engine, or a place in the line."""
        ...

    async def wait(self, request_id: str, timeout_s: float | None) -> SchedulingDecision | None:
        """The decision on a wish that waits, once there is one; None: no such wish."""
        ...

    def complete(self, request_id: str, engine_id: str) -> None:
        """The wish is done with its engine, or with waiting."""
        ...

    def waiting(self, model: str) -> tuple[int, float]:
        """How many wait for the model's engines, and the estimated wait (ms) of who comes next."""
        ...

    def in_force(self) -> dict[str, str]:
        """The policy and the strategy that hold in place of what the manager was made with, as ``get_status`` names
        them."""
        ...

    async def ask(self, job: Job) -> Reply:
        """Run a request. Raises RequestFailed."""
        ...

    def stream(self, job: Job) -> AsyncGenerator[Piece, None]:
        """Run a request and give its answer as it comes. Raises RequestFailed, also in the middle."""
        ...


def no_engine(model: str) -> str:
    """What a caller is told when no engine takes requests for a model."""
    return f"No healthy engines available for model {model}"


def reservation_kind(wish: Wish) -> RequestKind:
    """As what a wish stands in line."""
    vectors = wish.request_type == RequestType.EMBEDDING
    return RequestKind.VECTOR_RESERVATION if vectors else RequestKind.RESERVATION


def unserved(wish: Wish) -> SchedulingDecision:
    """No engine takes requests for the wish's model."""
    return SchedulingDecision(wish.request_id, None, status=RequestStatus.FAILED, reason=no_engine(wish.model))


def queued(wish: Wish, position: int, wait_ms: float) -> SchedulingDecision:
    """The wish waits at this place in line (from 1)."""
    return SchedulingDecision(
        wish.request_id,
        None,
        queue_position=position,
        estimated_wait_ms=wait_ms,
        status=RequestStatus.QUEUED,
        reason=f"All engines of model {wish.model} are full",
    )


def refused(request_id: str, reason: str) -> SchedulingDecision:
    """The wish will not come true."""
    return SchedulingDecision(request_id, None, status=RequestStatus.FAILED, reason=reason)
