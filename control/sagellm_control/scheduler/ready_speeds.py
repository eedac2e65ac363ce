"""How fast READY engines read prompts, several together."""

from __future__ import annotations

from bisect import bisect_left, insort

CLEARLY = 1.7
"""So many times as fast is another kind of engine; less is within what is known of how fast one is."""


class ReadySpeeds:
    """Prompt tokens a second of each, kept sorted."""

    def __init__(self) -> None:
        self._tps: list[float] = []
        self._sum = 0.0

    def add(self, tps: float) -> None:
        """An engine is READY."""
        insort(self._tps, tps)
        self._sum += tps

    def remove(self, tps: float) -> None:
        """It is so no more, or has another speed now."""
        del self._tps[bisect_left(self._tps, tps)]
        self._sum -= tps

    @property
    def mean(self) -> float:
        """0 where no engine is READY."""
        return self._sum / max(1, len(self._tps))

    @property
    def fastest(self) -> float:
        """0 where no engine is READY."""
        return self._tps[-1] if self._tps else 0.0

    @property
    def differ(self) -> bool:
        """Whether some engines are clearly faster than others."""
        return len(self._tps) > 1 and self._tps[-1] > CLEARLY * self._tps[0]
