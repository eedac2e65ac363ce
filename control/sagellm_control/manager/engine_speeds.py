"""How fast the engines of this process are, learned from their answers as a worker learns it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..engine_access import EngineObservation
from ..wire.engine import EngineRow, EngineSpeed

NOTABLE = 0.1
"""A row says it anew where a figure has changed by a tenth: each change sorts the engine in again."""


class EngineSpeeds:
    """One observation an engine that has answered anything."""

    def __init__(self) -> None:
        self._seen: dict[str, EngineObservation] = {}

    def observation(self, engine_id: str) -> EngineObservation:
        """Who watches the engine."""
        seen = self._seen.get(engine_id)
        if seen is None:
            seen = self._seen[engine_id] = EngineObservation()
        return seen

    def forget(self, engine_id: str) -> None:
        """The engine has gone."""
        self._seen.pop(engine_id, None)

    def learned(self, rows: Mapping[str, EngineRow]) -> Iterator[EngineRow]:
        """The rows of the engines that are not as fast as their rows say."""
        for engine_id, seen in self._seen.items():
            seen.window()  # its decode steps count from here on
            row, speed = rows[engine_id], seen.speed()
            if _differ(row.speed, speed):
                yield replace(row, speed=speed)


def _differ(before: EngineSpeed, now: EngineSpeed) -> bool:
    pairs = (
        (before.prefill_tps, now.prefill_tps),
        (before.step_ms, now.step_ms),
        (before.step_ms_per_answer, now.step_ms_per_answer),
    )
    return any(abs(new - old) > NOTABLE * max(old, new) for old, new in pairs)
