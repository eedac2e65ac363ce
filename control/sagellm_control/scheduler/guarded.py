"""A policy that raises does not stop a pool."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from ..wire.request import Arrival
from .forecast import Forecast
from .open_engines import OpenEngines
from .order import Order
from .placement import Hold, Placement, least_loaded

log = logging.getLogger(__name__)

Failed = Callable[[str], None]
"""Called with the policy's name each time it fails: for a counter."""


def _nobody(_name: str) -> None:
    pass


class _Once:
    # Tells of the first failure with its traceback, and counts them all.
    def __init__(self, name: str, failed: Failed) -> None:
        self._name = name
        self._failed = failed
        self._told = False

    def __call__(self, what: str, instead: str, error: Exception | None = None) -> None:
        self._failed(self._name)
        if not self._told:
            self._told = True
            log.error("%s %s; %s instead, also from now on, untold", self._name, what, instead, exc_info=error)


class GuardedOrder:
    """An order whose failures cost the request its place in that order, and no more: it ranks as under FIFO."""

    def __init__(self, order: Order, failed: Failed = _nobody) -> None:
        self.order = order
        self._report = _Once(order.name, failed)

    @property
    def name(self) -> str:
        """Of the order."""
        return self.order.name

    @property
    def fair(self) -> bool:
        """Of the order."""
        return self.order.fair

    @property
    def patience_ms(self) -> float:
        """Of the order."""
        return self.order.patience_ms

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        return self._number("handicap", lambda: self.order.handicap(request, forecast))

    def flow(self, request: Arrival) -> str:
        return self.order.flow(request)

    def haste(self, request: Arrival) -> float:
        return self.order.haste(request)

    def charge(self, request: Arrival, forecast: Forecast, weight: float = 1.0) -> float:
        return max(0.0, self._number("charge", lambda: self.order.charge(request, forecast, weight)))

    def _number(self, what: str, ask: Callable[[], float]) -> float:
        try:
            number = ask()
            if math.isfinite(number):
                return number
        except Exception as error:
            self._report(f"failed at a {what}", "no handicap and no charge", error)
            return 0.0
        self._report(f"gave {number} as a {what}", "no handicap and no charge")
        return 0.0


class GuardedPlacement:
    """A placement whose failures end at the least loaded engine. So does an engine that cannot take the request."""

    def __init__(self, placement: Placement, failed: Failed = _nobody) -> None:
        self.placement = placement
        self._report = _Once(placement.name, failed)

    @property
    def name(self) -> str:
        """Of the placement."""
        return self.placement.name

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | Hold | None:
        try:
            choice = self.placement.choose(request, forecast, engines, now_ms)
            if choice is None or isinstance(choice, Hold) or engines.can_take(choice, request, forecast):
                return choice
        except Exception as error:
            self._report("failed to choose", "the least loaded engine", error)
            return least_loaded(request, forecast, engines)
        self._report(f"chose {choice!r}, which cannot take the request", "the least loaded engine")
        return least_loaded(request, forecast, engines)
