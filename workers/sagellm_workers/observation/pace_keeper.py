"""Runs an engine's pace controller on what is seen of the engine, with the objectives of its pool."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from redis.exceptions import RedisError

from sagellm_control.pacing import PaceController, PaceObjectives, prefilling_pace
from sagellm_control.store.connect import Store
from sagellm_control.wire.engine import EngineRole, EngineRow

from .. import metrics
from .observation import EngineObservation

log = logging.getLogger(__name__)


class PaceKeeper:
    """What an engine's row says about its speed and its pace; told with each renewal of the lease."""

    def __init__(self, store: Store, row: EngineRow, observation: EngineObservation) -> None:
        self._store = store
        self._pool = row.pool
        self._settings = store.keys.pool(row.pool).settings
        self._observation = observation
        self._controller = PaceController(PaceObjectives(), row.speed.prefill_tps)
        self._pace = metrics.PACE.labels(row.pool, row.engine_id)
        self._prefill = metrics.PREFILL_SPEED.labels(row.pool, row.engine_id)
        self._tpot = metrics.ENGINE_TPOT.labels(row.pool, row.engine_id)

    def learn(self, row: EngineRow) -> EngineRow:
        """The row with what has been learned since the last time."""
        window, speed = self._observation.window(), self._observation.speed()
        pace = self._controller.observe(time.monotonic() * 1000, window, self._observation.prefill_tps)
        if row.role is EngineRole.PREFILL:
            pace = prefilling_pace(self._controller.objectives, speed.prefill_tps)
        self._pace.set(pace)
        self._prefill.set(speed.prefill_tps)
        if window.tokens:
            self._tpot.set(window.token_ms / window.tokens / 1000)
        return replace(row, speed=speed, pace_tps=pace)

    async def follow(self) -> None:
        """Take over the pool's objective; while it cannot be read, the one before holds."""
        try:
            (tpot,) = await self._store.commands.hmget(self._settings, "tpot_slo_ms")
            objectives = PaceObjectives(tpot_ms=max(0.0, float(tpot or 0)))
        except (RedisError, OSError, ValueError):
            return
        if objectives != self._controller.objectives:
            # What is known of the engine is kept: only what is aimed at has changed.
            log.info("pool %s: the objective is now %g ms a token", self._pool, objectives.tpot_ms)
            self._controller.objectives = objectives
