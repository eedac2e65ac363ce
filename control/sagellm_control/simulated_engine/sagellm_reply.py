"""sageLLM's own answers: a Response, or the events start, delta and end (shapes: isagellm-protocol)."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from .answers import token_id
from .batcher import Work
from .generation import Generation
from .reply import TokenEvents


def _event(fields: dict[str, object]) -> bytes:
    return b"data: " + orjson.dumps(fields) + b"\n\n"


class SagellmReply:
    """An answer with one choice. `identity`: request_id and trace_id as the request gave them."""

    def __init__(self, generation: Generation, identity: dict[str, object], engine_id: str) -> None:
        self.generation = generation
        self._identity = identity
        self._stream_identity = {**identity, "engine_id": engine_id}

    def opening(self) -> bytes:
        prompt_tokens = self.generation.prompt_tokens
        return _event({"event": "start", **self._stream_identity, "prompt_tokens": prompt_tokens})

    def events(self) -> list[TokenEvents]:
        tokens = self.generation.choices[0].tokens
        prefix = _event({"event": "delta", **self._stream_identity}).removesuffix(b"}\n\n") + b',"content":"'
        pieces = [f'{token}","content_tokens":[{token_id(token)}'.encode() for token in tokens]
        return [TokenEvents(prefix, prefix, b"]}\n\n", pieces)]

    def closing(self, works: Sequence[Work]) -> bytes:
        tokens = self.generation.choices[0].tokens
        end: dict[str, object] = {
            "event": "end",
            **self._stream_identity,
            "prompt_tokens": self.generation.prompt_tokens,
            "content": "".join(tokens),
        }
        return _event(end | self._ending(works))

    def whole(self, works: Sequence[Work]) -> bytes:
        tokens = self.generation.choices[0].tokens
        fields: dict[str, object] = {
            **self._identity,
            "output_text": "".join(tokens),
            "prompt_tokens": self.generation.prompt_tokens,
        }
        return orjson.dumps(fields | self._ending(works))

    def _ending(self, works: Sequence[Work]) -> dict[str, object]:
        choice = self.generation.choices[0]
        return {
            "output_tokens": [token_id(token) for token in choice.tokens],
            "finish_reason": choice.finish_reason,
            "metrics": _metrics(works[0]),
            "error": None,
        }


def _metrics(work: Work) -> dict[str, float]:
    """The protocol's Metrics of one answer; times in milliseconds, speed in tokens per second."""
    total_s = work.finished_at - work.submitted_at
    first_s = work.first_token_at - work.submitted_at if work.length else total_s
    gap_ms = (total_s - first_s) * 1000 / (work.length - 1) if work.length > 1 else 0.0
    return {
        "ttft_ms": first_s * 1000,
        "tbt_ms": gap_ms,
        "tpot_ms": gap_ms,
        "throughput_tps": work.length / total_s if total_s > 0 else 0.0,
        "peak_mem_mb": 0,
        "error_rate": 0.0,
    }
