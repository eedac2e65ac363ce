"""An engine's row, written by its worker alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from .states import EngineState


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
    prefetch: int = 0
    """Requests that its worker may hold on top of the slots."""
    state: EngineState = EngineState.STARTING
    worker: str = ""
    """The session that holds its lease; empty: nobody does."""
    version: str = ""
    reason: str = ""
    """Why it is not READY."""

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
        prefetch=int(fields.get("prefetch") or 0),
        state=EngineState(fields.get("state", EngineState.ERROR)),
        worker=fields.get("worker", ""),
        version=fields.get("version", ""),
        reason=fields.get("reason", ""),
    )
