"""A request in which nothing is as it is by default."""

from __future__ import annotations

from typing import Any

from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import RequestKind
from sagellm_control.wire.trace_context import TraceContext

EVERY_FIELD: dict[str, Any] = {
    "kind": RequestKind.EMBEDDING,
    "priority": RequestPriority.LOW,
    "tenant": "t",
    "model": "lora",
    "stream": True,
    "timeout_ms": 9000,
    "slo_ms": 500,
    "tpot_slo_ms": 60,
    "reject_late": True,
    "weight": 0.25,
    "queue_ttl_ms": 4000,
    "session": "s",
    "prefix": ("aa", "bb"),
    "prompt_tokens": 12,
    "max_tokens": 34,
    "trace": TraceContext("x", "00-1-2-01", "a=1"),
    "attempt": 3,
    "continuable": True,
    "orphan_grace_ms": 700,
    "stage": "prefill",
}
"""For each optional field of a ``NewRequest`` something else than the default."""


def recorded_as(name: str) -> str:
    """What a field of a ``NewRequest`` is called in the record."""
    return "continue" if name == "continuable" else name
