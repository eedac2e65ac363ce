"""Can the head of the line still make it? The one part of an order that depends on the time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from ..wire.request import Arrival
from .policy_settings import PolicySettings, WhenLate

LATE_HANDICAP_MS = 600_000.0
"""A late request steps back by ten minutes: behind all classes (4 × aging of a minute), and not for ever."""


class Ranks(Protocol):
    """What an order says of it."""

    @property
    def reach_ms(self) -> float: ...

    def haste(self, request: Arrival) -> float: ...


def step_back_ms(order: Ranks, request: Arrival) -> float:
    """By how much the rank of a request grows that is late. 0 under an order with a finite ``reach_ms``: there, the
    flow that causes an overload would pass the late requests of the flows that suffer from it, with all that it sends
    for ten minutes of virtual time."""
    return LATE_HANDICAP_MS * order.haste(request) if order.reach_ms == math.inf else 0.0


class Verdict(StrEnum):
    """What to do with a request that has come to the head."""

    PLACE = "place"
    STEP_BACK = "step_back"
    """Once: its rank grows by ``step_back_ms``."""
    REFUSE = "refuse"
    """It ends with a clear outcome."""


@dataclass(slots=True, frozen=True)
class Lateness:
    """Judges the head of the line.

    Late is what would miss its objective for the first token even on an engine that started it this instant: the
    most hopeful prediction, so that nothing is given up that could have been served in time.
    """

    late: WhenLate = WhenLate.STEP_BACK
    ttft_slo_ms: float = 0.0
    """Objective for the first token of requests that state none; 0: those cannot be late."""

    @classmethod
    def of(cls, settings: PolicySettings) -> Lateness:
        """As the pool is set."""
        return cls(settings.late, settings.ttft_slo_ms)

    def objective_ms(self, request: Arrival) -> float:
        """From accept to the first token; 0: none."""
        return request.slo_ms or self.ttft_slo_ms

    def refuses(self, request: Arrival) -> bool:
        """Whether it is to be refused rather than served late."""
        return request.reject_late or self.late is WhenLate.REFUSE

    def slack_ms(self, request: Arrival, prefill_ms: float, now_ms: float) -> float:
        """By how much the first token would be early (negative: late) if it started now; inf without an objective."""
        objective = self.objective_ms(request)
        return request.arrived_ms + objective - now_ms - prefill_ms if objective else float("inf")

    def judge(self, request: Arrival, prefill_ms: float, now_ms: float, *, stepped_back: bool = False) -> Verdict:
        """What to do with the request now.

        Args:
            prefill_ms: what its prompt would take, less what an engine has cached of it.
            stepped_back: whether it has stepped back before; then it is placed when its turn comes, or refused.
        """
        if self.slack_ms(request, prefill_ms, now_ms) >= 0:
            return Verdict.PLACE
        if self.refuses(request):
            return Verdict.REFUSE
        return Verdict.PLACE if stepped_back or self.late is WhenLate.SERVE else Verdict.STEP_BACK
