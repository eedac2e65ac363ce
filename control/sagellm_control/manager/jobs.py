"""The protocol's requests as jobs: OpenAI's JSON for the engine, and what scheduling needs from the metadata."""

from __future__ import annotations

import secrets
from typing import Any, cast

import orjson
from sagellm_protocol import ErrorCode, Request

from ..client.continuable import may_continue
from ..client.prompt_prefix import prefix_blocks
from ..client.scheduling_hints import SchedulingHints
from ..wire.priority import RequestPriority
from ..wire.request import CHARACTERS_A_TOKEN, LONGEST_SESSION
from ..wire.states import RequestKind
from .as_json import as_json
from .backend import Job, RequestFailed

LONGEST_TIME_MS = 1e12
"""Thirty years."""
OWN_FIELDS = frozenset({"request_id", "trace_id", "prompt", "messages", "stream", "sampling_params"})
"""Fields of a ``Request`` that do not go into the body as they are."""
SAMPLING_DEFAULTS = frozenset({"strategy", "beam_size", "alpha", "penalty_alpha", "n_speculative_tokens"})
"""Of ``SamplingParams``: what OpenAI's wire has no field for; it reaches the engine in ``sampling_params`` alone."""


def job_of(request: Request, *, stream: bool, timeout_s: float | None, default_timeout_s: float) -> Job:
    """The job that a request asks for.

    Raises:
        RequestFailed: INVALID_ARGUMENT, naming the field or the metadata that is wrong.
    """
    metadata = request.metadata or {}
    chat = bool(request.messages)
    limit_s = _milliseconds(metadata, "timeout_ms") or _milliseconds(metadata, "deadline_ms")
    if timeout_s is not None and not _is_time(timeout_s, LONGEST_TIME_MS / 1000):
        raise _invalid(f"timeout_s must be a number of seconds above 0, not {timeout_s!r}")
    limits = [timeout_s] if timeout_s is not None else []
    limits += [limit_s / 1000] if limit_s else []
    kind = RequestKind.CHAT if chat else RequestKind.COMPLETION
    body = _body(request, stream=stream)
    encoded = _encoded(request, body)
    hints = _hints(metadata)
    if prefix := prefix_blocks(request.model, body):
        hints["prefix"] = prefix
    return Job(
        request_id=request.request_id,
        trace_id=request.trace_id,
        model=request.model,
        kind=kind,
        body=encoded,
        stream=stream,
        continuable=stream and may_continue(kind, body),
        priority=_priority(metadata.get("priority")),
        tenant=str(metadata.get("tenant") or ""),
        timeout_s=min(limits) if limits else default_timeout_s,
        slo_ms=round(_milliseconds(metadata, "slo_deadline_ms")),
        prompt_tokens=_characters(request) // CHARACTERS_A_TOKEN,
        max_tokens=request.max_tokens,
        hints=hints,
    )


def embedding_job(texts: list[str], model: str, trace_id: str | None, timeout_s: float) -> Job:
    """The job of making vectors. Raises ValueError: names the argument that cannot be sent."""
    as_json({"model_id": model, "trace_id": trace_id})
    try:
        body = orjson.dumps({"model": model, "input": texts})
    except TypeError as error:
        raise ValueError(f"texts cannot be written as JSON: {error}") from error
    return Job(
        request_id=f"emb-{secrets.token_hex(4)}",
        trace_id=trace_id or f"trace-{secrets.token_hex(4)}",
        model=model,
        kind=RequestKind.EMBEDDING,
        body=body,
        timeout_s=timeout_s,
        prompt_tokens=sum(map(len, texts)) // CHARACTERS_A_TOKEN,
    )


def _body(request: Request, *, stream: bool) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if request.messages:
        body["messages"] = [message.model_dump(exclude_none=True) for message in request.messages]
    else:
        body["prompt"] = request.prompt
    for name in type(request).model_fields:
        value = getattr(request, name)
        if value is not None and name not in OWN_FIELDS:
            body[name] = value
    sampling = getattr(request, "sampling_params", None)
    if sampling is not None:
        body["sampling_params"] = sampling.model_dump(mode="json")
        for name, value in sampling.model_dump(mode="json", exclude_unset=True, exclude_none=True).items():
            if name not in SAMPLING_DEFAULTS:
                # What the request says itself goes before; ``max_tokens`` it always says.
                body.setdefault("stop" if name == "stop_sequences" else name, value)
    body["stream"] = stream
    if stream:
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    return body


def _encoded(request: Request, body: dict[str, Any]) -> bytes:
    try:
        as_json({"request_id": request.request_id, "trace_id": request.trace_id})
        return as_json(body)
    except ValueError as error:
        raise _invalid(str(error)) from error


def _hints(metadata: dict[str, Any]) -> SchedulingHints:
    hints = SchedulingHints()
    session, reject_late = metadata.get("session"), metadata.get("reject_late")
    if session is not None:
        if not isinstance(session, str) or not 0 < len(session) <= LONGEST_SESSION:
            raise _invalid(f"metadata['session'] must be 1 to {LONGEST_SESSION} characters, not {session!r}")
        hints["session"] = session
    if reject_late is not None:
        if not isinstance(reject_late, bool):
            raise _invalid(f"metadata['reject_late'] must be True or False, not {reject_late!r}")
        hints["reject_late"] = reject_late
    if tpot_slo_ms := round(_milliseconds(metadata, "tpot_slo_ms")):
        hints["tpot_slo_ms"] = tpot_slo_ms
    return hints


def _characters(request: Request) -> int:
    if request.messages:
        return sum(len(message.content or "") for message in request.messages)
    return len(request.prompt or "")


def _priority(value: object) -> RequestPriority:
    if value is None:
        return RequestPriority.NORMAL
    try:
        return RequestPriority.parse(str(int(value) if isinstance(value, int) else value))
    except ValueError as error:
        raise _invalid(f"metadata['priority']: {error}") from None


def _milliseconds(metadata: dict[str, Any], name: str) -> float:
    value = cast(object, metadata.get(name))
    if value is None:
        return 0.0
    if not _is_time(value, LONGEST_TIME_MS):
        raise _invalid(f"metadata[{name!r}] must be a number of milliseconds above 0, not {value!r}")
    return float(cast(float, value))


def _is_time(value: object, most: float) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 < value < most


def _invalid(message: str) -> RequestFailed:
    return RequestFailed(ErrorCode.INVALID_ARGUMENT, message, retryable=False)
