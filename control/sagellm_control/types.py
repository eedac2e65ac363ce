"""The values that programs exchange with the control plane: engines, requests, decisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any

from .wire.priority import RequestPriority as RequestPriority
from .wire.states import EngineState as EngineState

FULL_LOAD = 0.95
"""From this load on an ``ExecutionInstance`` takes nothing more."""


class ExecutionInstanceType(StrEnum):
    """What an engine is for; ``metadata["instance_type"]`` of a registration."""

    GENERAL = "general"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    HYBRID = "hybrid"
    EMBEDDING = "embedding"
    LLM_EMBEDDING = "llm_embedding"


class RequestType(StrEnum):
    """What a request asks for."""

    LLM_CHAT = "llm_chat"
    LLM_GENERATE = "llm_generate"
    EMBEDDING = "embedding"


class RequestStatus(StrEnum):
    """Where a request is."""

    PENDING = "pending"
    QUEUED = "queued"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ParallelismType(StrEnum):
    """How a model is spread over devices."""

    TENSOR_PARALLEL = "tp"
    PIPELINE_PARALLEL = "pp"
    DATA_PARALLEL = "dp"
    EXPERT_PARALLEL = "ep"
    HYBRID = "hybrid"


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class EngineInfo:
    """An engine as the control plane knows it.

    What a manager hands out is live: it changes as the engine does, and what a program sets on it (its state, its
    load) is what the manager goes by; but for the load with shared state, which knows it better.
    """

    engine_id: str
    model_id: str
    host: str
    port: int
    state: EngineState = EngineState.STARTING
    engine_kind: str = "llm"
    created_at: datetime = field(default_factory=_now)
    last_heartbeat: datetime | None = None
    consecutive_failures: int = 0
    active_requests: int = 0
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value
        changed = self.__dict__.get("_changed")
        if changed is not None:
            changed(self, name)

    def watch(self, changed: Callable[[EngineInfo, str], None] | None) -> None:
        """Have ``changed(info, field)`` called after each assignment to a field; one watcher at a time."""
        if changed is None:
            self.__dict__.pop("_changed", None)
        else:
            self.__dict__["_changed"] = changed

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_changed"}

    @property
    def endpoint(self) -> str:
        """The engine's root URL."""
        return f"http://{self.host}:{self.port}"

    @property
    def is_healthy(self) -> bool:
        """Whether it is READY."""
        return self.state == EngineState.READY

    @property
    def is_accepting_requests(self) -> bool:
        """Whether it is READY."""
        return self.state == EngineState.READY

    @property
    def is_terminal(self) -> bool:
        """Whether it is STOPPED or in ERROR."""
        return self.state in (EngineState.STOPPED, EngineState.ERROR)

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON as far as the metadata is."""
        return {
            "engine_id": self.engine_id,
            "model_id": self.model_id,
            "host": self.host,
            "port": self.port,
            "state": str(self.state.value if isinstance(self.state, Enum) else self.state),  # pyright: ignore[reportUnnecessaryIsInstance] - programs assign plain text
            "engine_kind": self.engine_kind,
            "created_at": self.created_at.isoformat(),
            "last_heartbeat": self.last_heartbeat.isoformat() if self.last_heartbeat else None,
            "consecutive_failures": self.consecutive_failures,
            "active_requests": self.active_requests,
            "metadata": self.metadata,
        }


@dataclass
class RequestMetadata:
    """What a policy sees of a request."""

    request_id: str
    trace_id: str = ""
    model_id: str = ""
    prompt: str | None = None
    request_type: RequestType = RequestType.LLM_CHAT
    priority: RequestPriority = RequestPriority.NORMAL
    max_tokens: int = 512
    prompt_tokens: int = 0
    arrival_time: datetime = field(default_factory=_now)
    slo_deadline_ms: float | None = None
    embedding_texts: list[str] | None = None

    @property
    def is_llm_request(self) -> bool:
        """Whether it asks for text."""
        return self.request_type in (RequestType.LLM_CHAT, RequestType.LLM_GENERATE)

    @property
    def is_embedding_request(self) -> bool:
        """Whether it asks for vectors."""
        return self.request_type == RequestType.EMBEDDING


@dataclass
class SchedulingDecision:
    """Where a request goes, or why it does not go yet."""

    request_id: str
    engine_id: str | None
    queue_position: int = 0
    """Place in the line, the next to go is 1; 0: it does not wait."""
    estimated_wait_ms: float = 0.0
    status: RequestStatus = RequestStatus.SCHEDULED
    reason: str = ""

    @property
    def is_scheduled(self) -> bool:
        """Whether an engine has been chosen."""
        return self.status is RequestStatus.SCHEDULED and self.engine_id is not None


_TEXT = [RequestType.LLM_CHAT, RequestType.LLM_GENERATE]
_TYPES_OF_INSTANCE = {
    ExecutionInstanceType.EMBEDDING: [RequestType.EMBEDDING],
    ExecutionInstanceType.LLM_EMBEDDING: [*_TEXT, RequestType.EMBEDDING],
}


@dataclass
class ExecutionInstance:
    """An engine with its load, for programs that balance by themselves."""

    instance_id: str
    host: str
    port: int
    model_name: str
    instance_type: ExecutionInstanceType = ExecutionInstanceType.GENERAL
    is_available: bool = True
    is_healthy: bool = True
    current_load: float = 0.0
    active_requests: int = 0
    max_concurrent_requests: int = 100
    supported_request_types: list[RequestType] | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def available_capacity(self) -> float:
        """Fraction that is free, 0 to 1."""
        return max(0.0, 1.0 - self.current_load)

    @property
    def can_accept_request(self) -> bool:
        """Whether it takes one more."""
        return (
            self.is_available
            and self.is_healthy
            and self.current_load < FULL_LOAD
            and self.active_requests < self.max_concurrent_requests
        )

    @property
    def effective_request_types(self) -> list[RequestType]:
        """What it can do: the explicit list, else what its type says."""
        if self.supported_request_types is not None:
            return self.supported_request_types
        return list(_TYPES_OF_INSTANCE.get(self.instance_type, _TEXT))

    def can_handle_request_type(self, request_type: RequestType) -> bool:
        """Whether it can do that."""
        return request_type in self.effective_request_types


@dataclass
class PerformanceMetrics:
    """Figures of an engine or a pool."""

    ttft_ms: float = 0.0
    tbt_ms: float = 0.0
    throughput_tps: float = 0.0
    latency_p50_ms: float = 0.0
    latency_p99_ms: float = 0.0
    error_rate: float = 0.0
