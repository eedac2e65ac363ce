"""An engine's row, written by its worker alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import orjson

from .states import EngineState

SERVED_BY = "sagellm-control"
"""What a gateway says of its list of models, and of each in it, so that it is not taken for the engine behind it."""


class EngineRole(StrEnum):
    """Which stages of a request an engine takes."""

    GENERAL = "general"
    """Whole requests, and the decode of separated ones."""
    PREFILL = "prefilling"
    """It reads prompts, and hands them over to engines that decode."""
    DECODE = "decoding"
    """It answers what a prefilling engine has read."""
    HYBRID = "hybrid"
    """As GENERAL; the name that sageLLM's tools know."""


@dataclass(slots=True, frozen=True)
class EngineSpeed:
    """How fast an engine is, as its worker has observed; the defaults are a mid-range GPU with an 8 B model.

    With ``n`` answers running, a decode step takes ``step_ms + n × step_ms_per_answer``.
    """

    prefill_tps: float = 8000.0
    """Prompt tokens a second, when nothing else runs; at least 1."""
    step_ms: float = 15.0
    step_ms_per_answer: float = 0.3

    def __post_init__(self) -> None:
        if self.prefill_tps < 1.0:
            object.__setattr__(self, "prefill_tps", 1.0)


_TYPICAL = EngineSpeed()
PAIRED_KIND = "sglang"


@dataclass(slots=True, frozen=True)
class EngineRow:
    """What is known of an engine."""

    engine_id: str
    pool: str
    url: str
    kind: str
    """Which server it is: ``vllm``, ``sglang``, ``llama.cpp``, ``ollama``, ``sagellm``, ``simulated``, ``openai``."""
    slots: int
    """Requests that it runs at once."""
    models: tuple[str, ...]
    """Names that it answers to: the pool's and, say, its LoRA adapters'."""
    kinds: tuple[str, ...] = ()
    """Kinds of request (``RequestKind``) that it takes; empty: every kind."""
    kv_tokens: int = 0
    """Tokens that its KV cache holds; 0: unknown, so it does not bound anything."""
    role: EngineRole = EngineRole.GENERAL
    speed: EngineSpeed = EngineSpeed()
    pace_tps: float = 0.0
    """Uncached prompt tokens a second that may start on it while answers run; 0: as many as it has places for."""
    kv_held: int = 0
    """KV tokens that its requests hold, prompt and expected output; only counted where ``kv_tokens`` is known."""
    prefetch: int = 0
    """Requests that its worker may hold on top of the slots."""
    limit: int | None = None
    """Most requests that it is given while it recovers; None: as many as it has places."""
    state: EngineState = EngineState.STARTING
    worker: str = ""
    """The session that holds its lease; empty: nobody does."""
    version: str = ""
    reason: str = ""
    """Why it is not READY, or not with all its places; or a note, say that its slots are a guess."""
    cards: tuple[tuple[str, str], ...] = ()
    """What it says of its models: name and a JSON object. Not in the row, which is read for every decision: see the
    step ``describe``."""
    last_resort: bool = False
    """It fails so many requests that it would be left alone if another engine took them."""

    @property
    def places(self) -> int:
        """Requests that it may hold."""
        places = self.slots + self.prefetch
        return places if self.limit is None else min(places, self.limit)

    @property
    def is_paired(self) -> bool:
        """Whether it holds a request together with another engine, one for the prompt and one for the answer, as
        SGLang's engines with a ``--disaggregation-mode`` do."""
        return self.kind == PAIRED_KIND and self.role in (EngineRole.PREFILL, EngineRole.DECODE)

    @property
    def only_answers(self) -> bool:
        """Whether the prompts of its requests are read by another engine at the same time."""
        return self.is_paired and self.role is EngineRole.DECODE

    def fields(self) -> dict[str, str]:
        """As the row's hash fields; state, worker and lease are the scripts' to write."""
        return {
            "pool": self.pool,
            "url": self.url,
            "kind": self.kind,
            "slots": str(self.slots),
            "prefetch": str(self.prefetch),
            "models": orjson.dumps(self.models).decode(),
            "version": self.version,
            "kv_tokens": str(self.kv_tokens),
            "role": self.role,
            "kinds": " ".join(self.kinds),
            **self.learned(),
        }

    def learned(self) -> dict[str, str]:
        """The fields that its worker learns while it serves, written with each renewal."""
        return {
            "limit": "" if self.limit is None else str(self.limit),
            "last_resort": "1" if self.last_resort else "",
            "prefill_tps": f"{self.speed.prefill_tps:.1f}",
            "step_ms": f"{self.speed.step_ms:.3f}",
            "step_ms_per_answer": f"{self.speed.step_ms_per_answer:.4f}",
            "pace_tps": f"{self.pace_tps:.1f}",
        }


def read_engine_row(engine_id: str, fields: Mapping[str, str]) -> EngineRow:
    """Read a row; fields that are missing get what a careful reader would assume."""
    try:
        models = tuple(str(name) for name in orjson.loads(fields.get("models", "[]")))
    except orjson.JSONDecodeError:
        models = ()
    return EngineRow(
        engine_id=engine_id,
        pool=fields.get("pool", ""),
        url=fields.get("url", ""),
        kind=fields.get("kind", ""),
        slots=int(fields.get("slots") or 0),
        models=models,
        kinds=tuple(fields.get("kinds", "").split()),
        kv_tokens=int(fields.get("kv_tokens") or 0),
        role=EngineRole(fields.get("role") or EngineRole.GENERAL),
        speed=EngineSpeed(
            prefill_tps=float(fields.get("prefill_tps") or _TYPICAL.prefill_tps),
            step_ms=float(fields.get("step_ms") or _TYPICAL.step_ms),
            step_ms_per_answer=float(fields.get("step_ms_per_answer") or _TYPICAL.step_ms_per_answer),
        ),
        pace_tps=float(fields.get("pace_tps") or 0),
        kv_held=int(fields.get("kv_held") or 0),
        prefetch=int(fields.get("prefetch") or 0),
        limit=int(fields["limit"]) if fields.get("limit") else None,
        state=EngineState(fields.get("state", EngineState.ERROR)),
        worker=fields.get("worker", ""),
        version=fields.get("version", ""),
        reason=fields.get("reason", ""),
        last_resort=fields.get("last_resort") == "1",
    )
