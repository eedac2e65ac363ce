"""How much an engine was handed lately: what placements keep even that look beyond the moment."""

from __future__ import annotations

import math

from ..wire.request import Arrival
from ..wire.states import Stage
from .engine_load import EngineLoad
from .forecast import Forecast

HALF_LIFE_MS = 600_000.0
"""Work of ten minutes ago counts half: conversations last for minutes, and what an engine did an hour ago is no reason
to send a prompt away from its cache."""
LEAST_MS = 1.0
"""What an engine that was handed nothing counts as having, so that there is a logarithm of it."""


class RecentWork:
    """Prompts in ms of reading them on their engine, cached ones included, each counted less the older it is.

    An engine's work is kept as log2(ms) + time / half-life: as all of it decays alike, that number changes only
    when the engine is handed something, and sorts engines at any later time (forward decay: Cormode et al., ICDE 2009).
    A scheduler counts what it placed itself: of several, each keeps its own share even, and so their sum.

    An engine that joins counts as having had as much as the others on average. Otherwise nobody would go back to a
    cache elsewhere before it has caught up.
    """

    def __init__(self) -> None:
        self._engines = 0
        self._total = 0.0

    def join(self, load: EngineLoad, now_ms: float) -> None:
        """The engine is READY; one that was so before, and has its work still, only counts again."""
        if load.recent == 0.0:
            mean_ms = (work_ms(self._total, now_ms) - LEAST_MS) / max(1, self._engines)
            load.recent = _mark(mean_ms, now_ms)
        self._engines += 1
        self._total = _mark(work_ms(self._total, now_ms) + work_ms(load.recent, now_ms), now_ms)

    def leave(self, load: EngineLoad, now_ms: float) -> None:
        """It is READY no more."""
        self._engines -= 1
        self._total = _mark(work_ms(self._total, now_ms) - work_ms(load.recent, now_ms), now_ms)

    def hand(self, load: EngineLoad, request: Arrival, forecast: Forecast, now_ms: float) -> float:
        """The engine was handed a request; returns what its prompt counts (ms)."""
        if request.stage == Stage.DECODE:
            return 0.0
        prompt_ms = (forecast.prompt_tokens or request.prompt_tokens) * 1000 / load.row.speed.prefill_tps
        self.add(load, prompt_ms, now_ms)
        return prompt_ms

    def add(self, load: EngineLoad, prompt_ms: float, now_ms: float) -> None:
        """So much more; negative: what it was handed came to nothing."""
        load.recent = _mark(work_ms(load.recent, now_ms) + prompt_ms, now_ms)
        self._total = _mark(work_ms(self._total, now_ms) + prompt_ms, now_ms)


def work_ms(recent: float, now_ms: float) -> float:
    """What a kept number comes to now."""
    return 2.0 ** min(64.0, recent - now_ms / HALF_LIFE_MS)


def _mark(ms: float, now_ms: float) -> float:
    return math.log2(max(LEAST_MS, ms)) + now_ms / HALF_LIFE_MS
