"""The shortest predicted work first."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from .base import ByArrival

LONGEST_MS = 600_000.0
"""No prediction puts a request back by more than ten minutes, however long its prompt and large the stretch."""

SLACK_SHARE = 0.9
"""How much of its objective a request lets pass for those that are in more of a hurry. On the Mooncake conversation
trace at a third beyond the knee, with 60 % of objectives a minute long: 0.92 goodput, against 0.87 with none of it."""


class ShortestOrder(ByArrival):
    """Handicap = stretch × predicted work + 0.9 × objective for the first token, at most ``LONGEST_MS``; without an
    objective stretch × work, and class × aging on top of it.

    The work is what a request costs its engine: its own prefill, and the share of the decode steps that it fills
    (``decode_share``: one over the usual batch, since a step serves the whole batch). Shortest first serves the most
    requests in time when there is more than can be served (Moore-Hodgson: drop the longest); the stretch makes it age.
    Who can wait, waits: an objective of a minute lets those with one of a second pass for most of that minute.

    Bound: a request is passed only by what arrives up to its handicap after it: so in no case by what arrives more than
    ``LONGEST_MS`` after it (plus class × aging where it has no objective). Waiting grows with what is asked for, and
    never without bound.

    Args:
        stretch: 0 is FIFO; with 20 a prefill of a second waits for 20 s behind shorter ones.
        aging_ms: head start (ms) of a class over the next; requests with an objective are all of the first class here,
            since the objective says how urgent they are.
        ttft_slo_ms: the pool's objective for the requests that state none; 0: none.
    """

    name = "shortest"

    def __init__(
        self, stretch: float, aging_ms: float, *, decode_share: float = 0.05, ttft_slo_ms: float = 0.0
    ) -> None:
        self.stretch = stretch
        self.aging_ms = aging_ms
        self.decode_share = decode_share
        self.ttft_slo_ms = ttft_slo_ms

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        work_ms = forecast.prefill_ms + self.decode_share * forecast.decode_ms
        objective_ms = request.slo_ms or self.ttft_slo_ms
        passed_ms = min(self.stretch * work_ms + SLACK_SHARE * objective_ms, LONGEST_MS)
        if objective_ms:
            return passed_ms
        return passed_ms + int(request.priority) * self.aging_ms
