"""A request in the simulated waiting set."""

from __future__ import annotations

from dataclasses import dataclass

from ..scheduler.forecast import Forecast
from .job import Job


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
    flow: str = ""
    """Who was charged so much, under a fair order."""
    stepped_back: bool = False

    def __lt__(self, other: WaitingJob) -> bool:
        return (self.rank, self.number) < (other.rank, other.number)
