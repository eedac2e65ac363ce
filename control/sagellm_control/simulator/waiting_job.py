"""A request in the simulated waiting set."""

from __future__ import annotations

from dataclasses import dataclass

from ..scheduler.forecast import Forecast
from .job import NEVER, Job


@dataclass(slots=True, eq=False)
class WaitingJob:
    """Its rank and what is known of it; sorts by rank, then by arrival."""

    rank: float
    number: int
    job: Job
    forecast: Forecast
    start_ms: float
    """Where a fair order let it start."""
    charge_ms: float
    stepped_back: bool = False
    held_until_ms: float = 0.0
    """Its placement waits for a better engine until then."""
    unfit_since_ms: float = NEVER
    """Since when no open engine has had KV room for it."""

    def __lt__(self, other: WaitingJob) -> bool:
        return (self.rank, self.number) < (other.rank, other.number)
