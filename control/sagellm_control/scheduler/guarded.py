"""A policy that raises does not stop a pool."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TypeVar

from ..wire.request import Arrival
from .forecast import Forecast
from .open_engines import OpenEngines
from .order import Order
from .order.base import PATIENCE_MS
from .placement import Hold, Placement, least_loaded

log = logging.getLogger(__name__)

_T = TypeVar("_T")

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
    """An order whose failures cost the request its place in that order, and no more: it ranks as under FIFO, its tenant
    is charged for it, it steps back as where ranks are times, and is passed as under the orders that do not pack."""

    def __init__(self, order: Order, failed: Failed = _nobody) -> None:
        self.order = order
        self._report = _Once(order.name, failed)
        self._fair = False

    @property
    def name(self) -> str:
        """Of the order."""
        return self.order.name

    @property
    def fair(self) -> bool:
        """Of the order; where it fails at that, as it was."""
        try:
            self._fair = bool(self.order.fair)
        except Exception as error:
            self._report("failed to say whether it is fair", f"{self._fair}", error)
        return self._fair

    @property
    def patience_ms(self) -> float:
        """Of the order."""
        return self._ask("patience", lambda: self.order.patience_ms, _is_span, PATIENCE_MS)

    @property
    def reach_ms(self) -> float:
        """Of the order."""
        return self._ask("reach", lambda: self.order.reach_ms, _is_distance, math.inf)

    @property
    def credit_ms(self) -> float:
        """Of the order."""
        return self._ask("credit", lambda: self.order.credit_ms, _is_span, 0.0)

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        return self._ask("handicap", lambda: self.order.handicap(request, forecast), math.isfinite, 0.0)

    def flow(self, request: Arrival) -> str:
        return self._ask("flow", lambda: self.order.flow(request), _is_text, request.tenant)

    def haste(self, request: Arrival) -> float:
        return self._ask("haste", lambda: self.order.haste(request), _is_factor, 1.0)

    def charge(self, request: Arrival, forecast: Forecast, weight: float = 1.0) -> float:
        charge = self._ask("charge", lambda: self.order.charge(request, forecast, weight), math.isfinite, 0.0)
        return max(0.0, charge)

    def _ask(self, what: str, ask: Callable[[], _T], good: Callable[[_T], bool], instead: _T) -> _T:
        try:
            answer = ask()
            if good(answer):
                return answer
        except Exception as error:
            self._report(f"failed at a {what}", repr(instead), error)
            return instead
        self._report(f"gave {answer!r} as a {what}", repr(instead))
        return instead


def _is_span(answer: float) -> bool:
    return math.isfinite(answer) and answer >= 0


def _is_distance(answer: float) -> bool:
    return answer >= 0  # as far as one likes


def _is_factor(answer: float) -> bool:
    return math.isfinite(answer) and answer > 0


def _is_text(answer: object) -> bool:
    return isinstance(answer, str)


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
