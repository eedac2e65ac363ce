"""Percentiles of a round, and median and spread over the rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of values in any order; NaN of none."""
    if not values:
        return float("nan")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over several rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def shown(self, digits: int = 2) -> str:
        """``median (least … most)``."""
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f} … {self.most:,.{digits}f})"

    def json(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}
