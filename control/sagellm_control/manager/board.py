"""All engines that a manager knows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..types import EngineInfo, EngineState
from ..wire.registration import DEFAULT_ROOM, instance_type_of, kinds_of
from ..wire.states import RequestKind

LEAST_LOADED = "least loaded"


class EngineBoard:
    """Engines in the order of their registration, and by model."""

    def __init__(self) -> None:
        self.engines: dict[str, EngineInfo] = {}
        self.kinds: dict[str, list[str]] = {}
        """What engines take that no program has registered, as their workers say; empty: whatever comes."""
        self.abandoned: set[str] = set()
        """Objects of a process that has gone: whoever has one of that id registers it anew."""
        self._models: dict[str, dict[str, EngineInfo]] = {}
        self._model_of: dict[str, str] = {}
        self._turn = 0

    def add(self, info: EngineInfo) -> None:
        """A new engine."""
        self.engines[info.engine_id] = info
        self._model_of[info.engine_id] = info.model_id
        self._models.setdefault(info.model_id, {})[info.engine_id] = info

    def remove(self, engine_id: str) -> EngineInfo | None:
        """Forget an engine; None: there is no such engine."""
        self.abandoned.discard(engine_id)
        info = self.engines.pop(engine_id, None)
        if info is not None:
            model = self._model_of.pop(engine_id)
            engines = self._models[model]
            del engines[engine_id]
            if not engines:
                del self._models[model]
        return info

    @property
    def models(self) -> list[str]:
        """The models that engines were registered with."""
        return list(self._models)

    def model_of(self, engine_id: str) -> str:
        """The model that the engine was registered with."""
        return self._model_of[engine_id]

    def of_model(self, model_id: str) -> list[EngineInfo]:
        """The engines that were registered with this model."""
        return list(self._models.get(model_id, {}).values())

    def words_for(self, engine_id: str, otherwise: str) -> str:
        """What made an engine the choice: that none of its model has fewer requests, as far as the board knows."""
        info = self.engines.get(engine_id)
        if info is None:
            return otherwise
        others = (
            other for other in self._models[self._model_of[engine_id]].values() if other.state == EngineState.READY
        )
        least = min((other.active_requests for other in others), default=0)
        return LEAST_LOADED if info.active_requests <= least else otherwise

    def embedding_model(self, model_id: str) -> str:
        """The model to ask for vectors; of ``default`` that of the least loaded engine, of each in turn among equals,
        and of those that take whatever comes only where none is said to make vectors.

        Raises:
            ValueError: there is no such engine, or none is READY.
        """
        asked = [info for info in self.engines.values() if model_id in ("default", info.model_id)]
        able = [info for info in asked if self._makes_vectors(info)]
        if not able or model_id != "default":
            able += [info for info in asked if self.kinds.get(info.engine_id) == []]
        if not able:
            of_model = "" if model_id == "default" else f" for model {model_id}"
            raise ValueError(f"No embedding engines available{of_model}")
        ready = [info for info in able if info.state == EngineState.READY]
        if not ready:
            raise ValueError("No healthy embedding engines available")
        self._turn += 1
        turn = self._turn % len(ready)
        return min(ready[turn:] + ready[:turn], key=lambda info: info.active_requests).model_id

    def _makes_vectors(self, info: EngineInfo) -> bool:
        kinds = self.kinds.get(info.engine_id) or kinds_of(info.engine_kind, instance_type_of(info.metadata))
        return RequestKind.EMBEDDING in kinds

    def status(self) -> dict[str, Any]:
        """What ``get_status`` says of the engines."""
        healthy = sum(info.state == EngineState.READY for info in self.engines.values())
        types = Counter(instance_type_of(info.metadata) for info in self.engines.values())
        return {
            "total_engines": len(self.engines),
            "healthy_engines": healthy,
            "unhealthy_engines": len(self.engines) - healthy,
            "models": list(self._models),
            "engine_types": dict(types),
        }


def room_of(info: EngineInfo, default: int = DEFAULT_ROOM) -> int:
    """Requests on the engine at once.

    Raises:
        ValueError: names the metadata that is wrong.
    """
    return _count(info, "max_concurrent_requests", default)


def kv_tokens_of(info: EngineInfo) -> int:
    """Tokens that the engine's KV cache holds; 0: it bounds nothing. Raises ValueError."""
    return _count(info, "kv_tokens", 0)


def _count(info: EngineInfo, name: str, default: int) -> int:
    value = (info.metadata or {}).get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"engine {info.engine_id}: metadata[{name!r}] must be a whole number of 1 or more, not {value!r}"
        )
    return value
