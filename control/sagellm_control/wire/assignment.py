"""What a worker reads from its engine's assigned stream: work, or the wish to cancel some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .attempts import id_of_attempt
from .priority import RequestPriority
from .states import RequestKind, Stage
from .trace_context import NO_TRACE, TraceContext


@dataclass(slots=True)  # not frozen: that costs microseconds with so many fields
class Assignment:
    """One attempt of one request, to be run on this engine."""

    entry_id: str
    request_id: str
    attempt: int
    kind: RequestKind
    priority: RequestPriority
    stream: bool
    arrived_ms: float
    assigned_ms: float
    timeout_at_ms: float
    """Server time (ms) at which the request expires; 0: never."""
    tenant: str
    trace: TraceContext
    after: tuple[int, int]
    """Position (attempt, sequence) of the last output that an earlier attempt has given; (0, 0): none."""
    body: bytes | None
    """None: too large to travel along; read it from the body's own key."""
    uncached_tokens: int = 0
    """Prompt tokens that the engine has to compute, as the scheduler estimates."""
    stage: Stage = Stage.WHOLE
    transfer: bytes = b""
    """What the engine that read the prompt has handed over (see the step ``advance``)."""
    prefilled_ms: float = 0.0
    """Server time (ms) at which it did."""

    @property
    def sent_id(self) -> str:
        """The id under which its engine gets it."""
        return id_of_attempt(self.request_id, self.attempt)


@dataclass(slots=True, frozen=True)
class CancelNotice:
    """The request is to be stopped, whatever it is doing."""

    entry_id: str
    request_id: str
    attempt: int
    outcome: str
    """``cancelled`` or ``expired``."""


def read_assigned(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Assignment | CancelNotice:
    """Read one entry of an assigned stream.

    Raises:
        KeyError, ValueError: it was not written by the assign or cancel step.
    """
    request_id = fields[b"id"].decode()
    attempt = int(fields[b"attempt"])
    if b"cancel" in fields:
        return CancelNotice(entry_id.decode(), request_id, attempt, fields[b"cancel"].decode())
    return Assignment(
        entry_id=entry_id.decode(),
        request_id=request_id,
        attempt=attempt,
        kind=RequestKind(fields[b"kind"].decode()),
        priority=RequestPriority(int(fields[b"priority"])),
        stream=fields.get(b"stream") == b"1",
        arrived_ms=float(fields[b"arrived_ms"]),
        assigned_ms=float(fields[b"assigned_ms"]),
        timeout_at_ms=float(fields.get(b"timeout_at_ms") or 0),
        tenant=fields.get(b"tenant", b"").decode(),
        trace=TraceContext.decode(fields[b"trace"]) if b"trace" in fields else NO_TRACE,
        after=_position(fields[b"after"]) if b"after" in fields else (0, 0),
        body=fields.get(b"body"),
        uncached_tokens=int(fields.get(b"uncached_tokens") or 0),
        stage=Stage(fields[b"stage"].decode()) if b"stage" in fields else Stage.WHOLE,
        transfer=fields.get(b"transfer", b""),
        prefilled_ms=float(fields.get(b"prefilled_ms") or 0),
    )


def _position(text: bytes) -> tuple[int, int]:
    attempt, _, sequence = text.partition(b"-")
    return int(attempt), int(sequence)
