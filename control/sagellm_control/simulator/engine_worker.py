"""The worker of a simulated engine: keeps its row, and learns its pace."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..pacing import PaceController, PaceObjectives, Window, prefilling_pace
from ..scheduler.engine_load import Reservation
from ..wire.engine import EngineRole, EngineRow
from ..wire.states import EngineState
from .engine import Engine
from .job import Job

POOL = "simulated"

TELLING = 0.01
"""A pace that has changed by less than this share is not told."""


@dataclass(slots=True, frozen=True)
class PaceRule:
    """How the engines' pace is set."""

    learned: bool = True
    """By the controller that workers have."""
    share: float = 0.0
    """Of the prefill speed, if it is not learned; 0: no pace."""


class EngineWorker:
    """Sees of its engine what a worker sees: when tokens come.

    Args:
        pace: how the engine's pace is set.
        tpot_slo_ms: the pool's objective.
    """

    def __init__(self, engine: Engine, pace: PaceRule, tpot_slo_ms: float) -> None:
        speed = engine.model.true_speed
        self.engine = engine
        self.held: dict[str, Reservation] = {}
        """Reservations by request."""
        role, objectives = engine.model.role, PaceObjectives(tpot_slo_ms)
        self._pace: PaceController | None = None
        pace_tps = pace.share * speed.prefill_tps
        if pace.learned and role is EngineRole.PREFILL:
            pace_tps = prefilling_pace(objectives, speed.prefill_tps)
        elif pace.learned:
            self._pace = PaceController(objectives, speed.prefill_tps)
            pace_tps = self._pace.pace_tps
        self.row = EngineRow(
            engine_id=engine.id,
            pool=POOL,
            url="",
            kind="simulated",
            slots=engine.model.slots,
            models=(POOL,),
            kv_tokens=engine.model.kv_tokens,
            role=role,
            speed=speed,
            pace_tps=pace_tps,
            state=EngineState.READY,
        )
        self._seen_ms = 0.0
        self._seen_tokens = 0
        self._started_tokens = 0.0

    def take(self, job: Job, taken: Reservation) -> None:
        """A request has been assigned to the engine."""
        self.held[job.arrival.id] = taken
        self._started_tokens += taken.uncached_tokens

    def look(self, now_ms: float) -> bool:
        """Take in what the engine did since the last look; whether the row has changed."""
        if self._pace is None:
            return False
        token_ms, tokens = self.engine.decoding(now_ms)
        window = Window(
            tokens=tokens - self._seen_tokens,
            token_ms=token_ms - self._seen_ms,
            started_tokens=self._started_tokens,
            running=self.engine.load,
        )
        self._seen_tokens, self._seen_ms, self._started_tokens = tokens, token_ms, 0.0
        pace_tps = self._pace.observe(now_ms, window)
        if abs(pace_tps - self.row.pace_tps) <= TELLING * self.row.pace_tps:
            return False
        self.row = replace(self.row, pace_tps=pace_tps)
        return True
