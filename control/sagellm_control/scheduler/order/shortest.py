"""The shortest predicted work first."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from .base import ByArrival

LONGEST_MS = 600_000.0
"""No prediction puts a request back by more than ten minutes, however long its prompt and large the stretch."""


class ShortestOrder(ByArrival):
    """Handicap = stretch × predicted work, at most ``LONGEST_MS``; class × aging on top of it without an objective.

    The work is what a request costs its engine: its own prefill, and the share of the decode steps that it fills
    (``decode_share``: one over the usual batch, since a step serves the whole batch). Shortest first serves the most
    requests in time when there is more than can be served (Moore-Hodgson: drop the longest); the stretch makes it age.

    Bound: a request is passed only by what arrives up to stretch × its own work after it, and in no case by what
    arrives more than ``LONGEST_MS`` after it (plus class × aging where it states no objective): waiting grows with
    what is asked for, and never without bound.

    Args:
        stretch: 0 is FIFO; with 20 a prefill of a second waits for 20 s behind shorter ones.
        aging_ms: head start (ms) of a class over the next; requests with an objective are all of the first class here,
            since the objective says how urgent they are.
        objective: whether the pool gives an objective to the requests that state none.
    """

    name = "shortest"

    def __init__(self, stretch: float, aging_ms: float, *, decode_share: float = 0.05, objective: bool = False) -> None:
        self.stretch = stretch
        self.aging_ms = aging_ms
        self.decode_share = decode_share
        self.objective = objective

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        work_ms = forecast.prefill_ms + self.decode_share * forecast.decode_ms
        passed_ms = min(self.stretch * work_ms, LONGEST_MS)
        if request.slo_ms or self.objective:
            return passed_ms
        return passed_ms + int(request.priority) * self.aging_ms
