"""What a worker is assigned."""

from __future__ import annotations

from typing import Any

from sagellm_control.wire.assignment import Assignment
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import RequestKind
from sagellm_control.wire.trace_context import NO_TRACE

ASSIGNED_MS = 1_700_000_000_000.0


def assignment(request_id: str = "r", **fields: Any) -> Assignment:
    """A chat in its first attempt, with everything filled in that a test does not care about."""
    made: dict[str, Any] = {
        "entry_id": "1-1",
        "attempt": 1,
        "kind": RequestKind.CHAT,
        "priority": RequestPriority.NORMAL,
        "stream": False,
        "arrived_ms": ASSIGNED_MS,
        "assigned_ms": ASSIGNED_MS,
        "timeout_at_ms": 0.0,
        "tenant": "",
        "trace": NO_TRACE,
        "after": (0, 0),
        "body": b"{}",
    }
    return Assignment(request_id=request_id, **{**made, **fields})
