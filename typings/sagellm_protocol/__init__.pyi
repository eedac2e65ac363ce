# isagellm-protocol is published as bytecode, without types. What is used of it:
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel

class ErrorCode(StrEnum):
    INVALID_ARGUMENT = "invalid_argument"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NOT_IMPLEMENTED = "not_implemented"

class Error(BaseModel):
    code: ErrorCode
    message: str
    retryable: bool | None = None

class ChatMessage(BaseModel):
    role: Literal["system", "user", "assistant", "function", "tool"]
    content: str
    name: str | None = None

class SamplingParams(BaseModel):
    top_k: int = 0
    stop_sequences: list[str] | None = None

class Metrics(BaseModel):
    ttft_ms: float
    throughput_tps: float
    peak_mem_mb: int
    error_rate: float

class Request(BaseModel):
    request_id: str
    trace_id: str
    model: str = ""
    prompt: str = ""
    messages: list[ChatMessage] | None = None
    max_tokens: int
    stream: bool = False
    sampling_params: SamplingParams | None = None
    temperature: float | None = None
    top_p: float | None = None
    kv_budget_tokens: int | None = None
    metadata: dict[str, Any] | None = None

class Response(BaseModel):
    request_id: str
    trace_id: str
    output_text: str
    output_tokens: list[int]
    prompt_tokens: int | None = None
    finish_reason: Literal["stop", "length", "error"]
    metrics: Metrics
    error: Error | None = None

class StreamEventStart(BaseModel):
    event: Literal["start"] = "start"
    request_id: str
    trace_id: str
    engine_id: str
    prompt_tokens: int | None = None

class StreamEventDelta(BaseModel):
    event: Literal["delta"] = "delta"
    request_id: str
    trace_id: str
    engine_id: str
    content: str
    content_tokens: list[int]

class StreamEventEnd(BaseModel):
    event: Literal["end"] = "end"
    request_id: str
    trace_id: str
    engine_id: str
    prompt_tokens: int | None = None
    content: str
    output_tokens: list[int]
    finish_reason: Literal["stop", "length", "error"]
    metrics: Metrics
    error: Error | None = None

StreamEvent = StreamEventStart | StreamEventDelta | StreamEventEnd
