"""What engines answer, in the protocol's types."""

from __future__ import annotations

import time
from typing import Any, cast

import orjson
from pydantic import ValidationError
from sagellm_protocol import Error, ErrorCode, Metrics, Request, Response

from .backend import RequestFailed

UNKNOWN_TOKEN = -1
"""Stands for each token whose id the engine does not tell, so that the length of an answer is right. No tokenizer has
it, so nobody takes it for one."""
NO_METRICS: dict[str, Any] = {"ttft_ms": 0.0, "throughput_tps": 0.0, "peak_mem_mb": 0, "error_rate": 0.0}
FINISH_REASONS = frozenset({"stop", "length", "error"})
"""All that the protocol has; what else engines say (tool_calls, content_filter, …) is a stop."""


def failed_response(request: Request, failure: RequestFailed) -> Response:
    """The response to a request that did not work out."""
    return Response(
        request_id=request.request_id,
        trace_id=request.trace_id,
        output_text="",
        output_tokens=[],
        finish_reason="error",
        metrics=failed_metrics(),
        error=failure.as_error(),
    )


def failed_metrics() -> Metrics:
    """Figures of a request that did not work out."""
    return Metrics.model_validate({**NO_METRICS, "error_rate": 1.0})


def response(request: Request, body: bytes, began: float) -> Response:
    """The response for OpenAI's reply; ``began``: when the request was handed in (monotonic).

    Raises:
        RequestFailed: the reply cannot be read.
    """
    try:
        reply = cast(dict[str, Any], orjson.loads(body))
        choice = reply["choices"][0]
        text = choice["message"].get("content") if "message" in choice else choice["text"]
        extra = reply.get("sagellm") or {}
        usage = reply.get("usage") or {}
        answer: dict[str, Any] = {
            "output_text": text or "",
            "output_tokens": extra.get("output_tokens") or [UNKNOWN_TOKEN] * (usage.get("completion_tokens") or 0),
            "finish_reason": finish_reason(choice.get("finish_reason")),
            "metrics": metrics(extra.get("metrics"), began, None, usage.get("completion_tokens") or 0),
        }
        if error := extra.get("error"):
            answer["error"] = Error.model_validate(error)
        if tokens := usage.get("prompt_tokens"):  # no prompt has none: 0 stands for an engine that does not say
            answer["prompt_tokens"] = tokens
        return Response(request_id=request.request_id, trace_id=request.trace_id, **answer)
    except (orjson.JSONDecodeError, ValidationError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise unreadable(error) from error


def seen_ttft_ms(made: Response, began: float) -> float:
    """From the call (monotonic) to the first token of an answer that came as a whole.

    What the engine says of its first token knows nothing of the wait before; how long the others took, it may tell.
    """
    took_ms = (time.monotonic() - began) * 1000
    told: Any = made.metrics
    token_ms = float(told.tpot_ms or told.tbt_ms)
    return took_ms - max(0, len(made.output_tokens) - 1) * token_ms


def vectors(body: bytes, texts: int) -> list[list[float]]:
    """The vectors of OpenAI's reply, in the order of the texts.

    Raises:
        ValueError: there are not so many.
    """
    try:
        rows = sorted(orjson.loads(body)["data"], key=lambda row: row["index"])
        found = [cast(list[float], row["embedding"]) for row in rows]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        found = []
    if len(found) != texts:
        raise wrong_vectors(texts)
    return found


def wrong_vectors(texts: int) -> ValueError:
    """As programs know it."""
    return ValueError(f"Invalid embeddings response: expected {texts} vectors")


def finish_reason(said: object) -> str:
    """The protocol's word for what the engine says."""
    return said if isinstance(said, str) and said in FINISH_REASONS else "stop"


def metrics(said: object, began: float, first: float | None, tokens: int) -> Metrics:
    """The engine's own figures where it gives any that can be read, else what was seen from here.

    Args:
        began, first: when the request was handed in and its first token came (monotonic).
        tokens: of the answer.
    """
    took_ms = (time.monotonic() - began) * 1000
    ttft_ms = took_ms if first is None else (first - began) * 1000
    seen: dict[str, Any] = {
        **NO_METRICS,
        "ttft_ms": ttft_ms,
        "throughput_tps": tokens / took_ms * 1000 if took_ms > 0 else 0.0,
    }
    if first is not None and tokens > 1:
        seen["tpot_ms"] = seen["tbt_ms"] = (took_ms - ttft_ms) / (tokens - 1)
    if isinstance(said, dict):
        try:
            return Metrics.model_validate(seen | cast(dict[str, Any], said))
        except ValidationError:
            pass
    return Metrics.model_validate(seen)


def unreadable(error: Exception) -> RequestFailed:
    """The engine's reply makes no sense."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RequestFailed(
        ErrorCode.UNAVAILABLE, f"The engine's reply cannot be read: {type(error).__name__}: {reason}", retryable=True
    )
