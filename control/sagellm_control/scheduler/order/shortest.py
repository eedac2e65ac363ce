"""The shortest predicted work first."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from .base import ByArrival

LONGEST_MS = 600_000.0
"""No prediction puts a request back by more than ten minutes, however long its prompt and large the stretch."""

OBJECTIVES = 2.0
"""How many of its own objectives a request lets others pass. With 1 those of a minute that have waited for most of it
go before long prompts with an objective of seconds; what is late steps back anyway (``lateness``)."""

MOST_STRETCHED_MS = 30_000.0
"""Where there is an objective, the stretch puts a request back by no more than this: a long prompt of somebody who
waits for it still goes before a short one with an objective of a minute."""


class ShortestOrder(ByArrival):
    """Handicap = stretch × predicted work (at most 30 s) + 2 × objective for the first token, at most ``LONGEST_MS``;
    without an objective stretch × work, and class × aging on top of it.

    The work is what a request costs its engine: its own prefill, and the share of the decode steps that it fills
    (``decode_share``: one over the usual batch, since a step serves the whole batch). Shortest first serves the most
    requests in time when there is more than can be served (Moore-Hodgson: drop the longest); the stretch makes it age.
    Who can wait, waits: an objective of a minute lets those with one of a second pass for all of that minute.

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
        stretched_ms = min(self.stretch * work_ms, LONGEST_MS)
        if objective_ms:
            return min(min(stretched_ms, MOST_STRETCHED_MS) + OBJECTIVES * objective_ms, LONGEST_MS)
        return stretched_ms + int(request.priority) * self.aging_ms
