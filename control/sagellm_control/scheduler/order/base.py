"""What an order is."""

from __future__ import annotations

import math
from typing import Protocol

from ...wire.request import Arrival
from ..forecast import UNKNOWN, Forecast

PATIENCE_MS = 5_000.0
"""Patience of the orders that are not about packing: a few smaller requests may use the room meanwhile."""


class Order(Protocol):
    """Says who is next. Pure: no I/O, no clock of its own, the same answer for the same request.

        rank = start + handicap        (ms; the lowest goes first)

    The start is the time of arrival; under an order that is ``fair`` it is the virtual start of the request's flow (its
    tenant, or its class), which the store keeps (see ``charge``). The handicap is how much later than that the order
    lets the request count as come: nothing for FIFO, a minute a class for priorities, the predicted work for shortest
    first. So orders compose by adding their handicaps, and everything ages by itself: what came later has the larger
    start.

    A rank is computed once, when a request is admitted, so a handicap may only use what does not change meanwhile.
    """

    @property
    def name(self) -> str:
        """As it is recorded for the pool."""
        ...

    @property
    def fair(self) -> bool:
        """Whether requests start at their flow's virtual time and not at their arrival."""
        ...

    @property
    def patience_ms(self) -> float:
        """A request that has fitted no engine for so long counts as blocked: from then on only those pass it that rank
        up to so much behind it; see ``passing`` and ``head_of_line``."""
        ...

    @property
    def reach_ms(self) -> float:
        """While a request holds out for a better engine, others pass it. Once one that ranks more than so many ms
        behind it has passed, it holds out no more and takes any engine. inf: there is no such limit, and a late request
        steps back. Finite: a late request keeps its place, and begins no hold."""
        ...

    @property
    def credit_ms(self) -> float:
        """Under a fair order: how far before the virtual time a flow starts that had nothing waiting."""
        ...

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        """In ms; may be negative."""
        ...

    def flow(self, request: Arrival) -> str:
        """Under a fair order: who is charged for the request, its tenant or whatever it shares the pool as."""
        ...

    def haste(self, request: Arrival) -> float:
        """By how many ms ranks advance in a ms of the pool's service while only the request's flow is served. To put a
        request off by T ms, add T × haste to its rank."""
        ...

    def charge(self, request: Arrival, forecast: Forecast, weight: float = 1.0) -> float:
        """By how much (ms) a fair order puts off the next start of the request's flow: its service over its share.
        Start-time fair queueing: start = max(virtual time of the pool, the flow's last start + its charge), and the
        virtual time is the start of the last request that was assigned. 0 under an order that is not fair.

        Args:
            weight: of the request's tenant.
        """
        ...


class ByArrival:
    """What the orders that are not fair share."""

    fair: bool = False
    patience_ms: float = PATIENCE_MS
    reach_ms: float = math.inf
    credit_ms: float = 0.0

    def flow(self, request: Arrival) -> str:
        """Nobody."""
        return ""

    def haste(self, request: Arrival) -> float:
        """Ranks are times."""
        return 1.0

    def charge(self, request: Arrival, forecast: Forecast, weight: float = 1.0) -> float:
        """Nothing."""
        return 0.0


def rank_of(order: Order, request: Arrival, forecast: Forecast = UNKNOWN) -> float:
    """The rank under an order that is not fair."""
    return request.arrived_ms + order.handicap(request, forecast)
