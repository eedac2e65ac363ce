"""The urgent class first, and each class its least share."""

from __future__ import annotations

import math
from functools import cache

from ...wire.priority import RequestPriority
from ...wire.request import Arrival
from ..forecast import Forecast
from .base import PATIENCE_MS


class PriorityOrder:
    """Start-time fair queueing over the classes, with a head start for the urgent ones.

        charge = work of the request / (engines · share of its class)                                     (ms)
        start  = the class's last start + its charge; at least the virtual time (the start of the last that was
                 assigned) where nothing of the class waits
        rank   = start + class × aging                                    (CRITICAL = 0 … BACKGROUND = 4)

    Within the head start the urgent class simply goes first, and nothing that arrives later in a less urgent class
    delays it. Only while a class keeps more urgent ones busy for longer than that (the load is beyond capacity), the
    shares decide: BACKGROUND gets ``least_share`` of the work that is served, CRITICAL the most, each class between
    them a constant factor more than the next (0.01: 1, 3, 8, 23 and 65 %). What a class leaves unused goes to those
    that wait. So every class moves under any load, and a flood of old BACKGROUND requests never outranks new CRITICAL
    ones, as it would by aging alone.

    Bound: a class that has requests waiting all the time is handed, after some ``class × aging`` of the pool's service
    (time at full use, over all engines), at least its share of the work, less its largest request and its share of the
    largest of each other class (SFQ: Goyal, Vin, Cheng 1996, theorem 1).

    Args:
        aging_ms: head start of a class over the next less urgent one, in ms of virtual time (while one class alone is
            served, that runs as many times as fast as its share goes into the whole).
        least_share: of BACKGROUND, up to 0.2 (equal shares); 0: none, so starts are arrivals, and aging alone bounds
            the wait: a request goes before everything that arrived more than ``class × aging`` later.
        decode_share: how much of its decode time a request costs its engine; see ``ShortestOrder``.
    """

    name = "priority"

    def __init__(self, aging_ms: float, least_share: float = 0.0, *, decode_share: float = 0.05) -> None:
        self.aging_ms = aging_ms
        self.shares = shares_of(least_share)
        self.decode_share = decode_share
        self.fair: bool = least_share > 0
        self.patience_ms: float = PATIENCE_MS
        self.reach_ms: float = math.inf
        self.credit_ms: float = 0.0  # a share of the work, and not a head start for who did without

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        return int(request.priority) * self.aging_ms

    def flow(self, request: Arrival) -> str:
        """The class."""
        return f"class:{int(request.priority)}" if self.fair else ""

    def haste(self, request: Arrival) -> float:
        return 1.0 / self.shares[request.priority] if self.fair else 1.0

    def charge(self, request: Arrival, forecast: Forecast, weight: float = 1.0) -> float:
        """The weight is the tenant's, and a class is all of its tenants."""
        if not self.fair:
            return 0.0
        work_ms = forecast.prefill_ms + self.decode_share * forecast.decode_ms
        return work_ms / (forecast.engines * self.shares[request.priority])


@cache
def shares_of(least: float) -> dict[RequestPriority, float]:
    """Of each class, 1 in all, when BACKGROUND has the least; a geometric row."""
    low, high = 1.0, 1e4  # the factor from class to class
    while high - low > 1e-9:
        factor = (low + high) / 2
        if least * sum(factor**steps for steps in range(len(RequestPriority))) < 1:
            low = factor
        else:
            high = factor
    most = max(RequestPriority)
    return {priority: least * low ** (most - priority) for priority in RequestPriority}
