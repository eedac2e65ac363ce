"""The policies and strategies that the manager knows by name, the scheduler's own; and those that a program brings."""

from __future__ import annotations

import math
from typing import Protocol

from ..scheduler.forecast import Forecast
from ..scheduler.open_engines import OpenEngines
from ..scheduler.order import ORDERS, Order, make_order
from ..scheduler.order.base import PATIENCE_MS
from ..scheduler.placement import PLACEMENTS, Hold, Placement, make_placement
from ..wire.request import Arrival

POLICIES = tuple(ORDERS)
"""The names that ``scheduling_policy`` may be."""


class Handicaps(Protocol):
    """All that an order of a program's own must have; what else an ``Order`` has is optional."""

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        """See ``Order.handicap``."""
        ...


class OwnOrder:
    """A program's order with what it may have left out."""

    def __init__(self, own: Handicaps) -> None:
        self.own = own
        self.name = str(getattr(own, "name", type(own).__name__))

    @property
    def fair(self) -> bool:
        return bool(getattr(self.own, "fair", False))

    @property
    def patience_ms(self) -> float:
        return float(getattr(self.own, "patience_ms", PATIENCE_MS))

    @property
    def reach_ms(self) -> float:
        return float(getattr(self.own, "reach_ms", math.inf))

    @property
    def credit_ms(self) -> float:
        return float(getattr(self.own, "credit_ms", 0.0))

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        return self.own.handicap(request, forecast)

    def flow(self, request: Arrival) -> str:
        flow = getattr(self.own, "flow", None)
        return str(flow(request)) if flow is not None else request.tenant

    def haste(self, request: Arrival) -> float:
        haste = getattr(self.own, "haste", None)
        return float(haste(request)) if haste is not None else 1.0

    def charge(self, request: Arrival, forecast: Forecast, weight: float = 1.0) -> float:
        charge = getattr(self.own, "charge", None)
        return float(charge(request, forecast, weight)) if charge is not None else 0.0


def make_policy(policy: str | Handicaps) -> Order:
    """The order of this name; an order of the caller's own is taken as it is.

    Raises:
        ValueError: lists the names that exist.
        TypeError: it is neither a name nor an order.
    """
    if not isinstance(policy, str):
        if not callable(getattr(policy, "handicap", None)):
            raise TypeError(f"scheduling_policy must be a name or have handicap(request, forecast), not {policy!r}")
        return OwnOrder(policy)
    if policy not in ORDERS:
        raise ValueError(f"scheduling_policy {policy!r} is unknown: use one of {', '.join(POLICIES)}")
    return make_order(policy)


class Chooses(Protocol):
    """All that a placement of a program's own must have."""

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | Hold | None:
        """See ``Placement.choose``."""
        ...


class OwnPlacement:
    """A program's placement, with a name."""

    def __init__(self, own: Chooses) -> None:
        self.name = str(getattr(own, "name", type(own).__name__))
        self.choose = own.choose


def make_strategy(strategy: str | Chooses) -> Placement:
    """The placement of this name; a placement of the caller's own is taken as it is.

    Raises:
        ValueError: lists the names that exist.
        TypeError: it is neither a name nor a placement.
    """
    if not isinstance(strategy, str):
        if not callable(getattr(strategy, "choose", None)):
            raise TypeError(
                f"routing_strategy must be a name or have choose(request, forecast, engines, now_ms), not {strategy!r}"
            )
        return OwnPlacement(strategy)
    if strategy not in PLACEMENTS:
        raise ValueError(f"routing_strategy {strategy!r} is unknown: use one of {', '.join(PLACEMENTS)}")
    return make_placement(strategy)
