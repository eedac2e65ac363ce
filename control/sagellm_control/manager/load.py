"""How busy a model's engines are."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from ..types import EngineInfo, EngineState
from .board import room_of

MEMORY_S = 60.0
"""Time constant of the moving averages: what was a few minutes ago counts no more."""


@dataclass(slots=True, frozen=True)
class ModelLoad:
    """Figures of one model."""

    model_id: str
    ready: int = 0
    """READY engines."""
    coming: int = 0
    """Engines that are READY or STARTING."""
    places: int = 0
    """Of the READY engines, taken or free."""
    active: int = 0
    """Requests on them."""
    waiting: int = 0
    wait_ms: float = 0.0
    """Estimated wait of who comes next."""
    slo_miss_rate: float = 0.0
    """Fraction of this manager's requests with an objective that missed it lately."""


def load_of(
    model: str, engines: list[EngineInfo], room: int, waiting: tuple[int, float], slo_miss_rate: float
) -> ModelLoad:
    """The figures of a model; ``room``: of an engine whose registration does not say."""
    ready = [info for info in engines if info.state == EngineState.READY]
    return ModelLoad(
        model,
        ready=len(ready),
        coming=len(ready) + sum(info.state == EngineState.STARTING for info in engines),
        places=sum(room_of(info, room) for info in ready),
        active=sum(info.active_requests for info in ready),
        waiting=waiting[0],
        wait_ms=waiting[1],
        slo_miss_rate=slo_miss_rate,
    )


class Misses:
    """How many requests miss their objective: a moving average a model."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[float, float, float]] = {}

    def note(self, model: str, missed: bool) -> None:
        """A request with an objective has been answered."""
        misses, total = self._faded(model)
        self._models[model] = (misses + missed, total + 1, time.monotonic())

    def rate(self, model: str) -> float:
        """0 to 1; 0: there was none lately."""
        misses, total = self._faded(model)
        return misses / total if total >= 0.5 else 0.0

    def forget(self, model: str) -> None:
        """The model has no engine any more."""
        self._models.pop(model, None)

    def _faded(self, model: str) -> tuple[float, float]:
        misses, total, at = self._models.get(model, (0.0, 0.0, 0.0))
        fading = math.exp(-(time.monotonic() - at) / MEMORY_S)
        return misses * fading, total * fading
