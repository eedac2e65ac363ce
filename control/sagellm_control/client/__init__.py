"""The client library: what a gateway (ours, or another one) needs to put requests through the queue."""

from ..wire.trace_context import TraceContext
from .errors import (
    NoEngineReady,
    QueueError,
    QueueFull,
    QueueUnavailable,
    RequestConflict,
    TooLate,
    UnknownModel,
    UnknownRequest,
)
from .queue_client import QueueClient
from .submission import Result, Submission

__all__ = [
    "NoEngineReady",
    "QueueClient",
    "QueueError",
    "QueueFull",
    "QueueUnavailable",
    "RequestConflict",
    "Result",
    "Submission",
    "TooLate",
    "TraceContext",
    "UnknownModel",
    "UnknownRequest",
]
