"""The policies that the manager knows by name: the scheduler's orders, and the three that it adds to them."""

from __future__ import annotations

from collections.abc import Callable

from ..scheduler.forecast import Forecast
from ..scheduler.order import DEFAULT_AGING_S, ORDERS, Order, make_order
from ..wire.request import Arrival

DEFAULT_DEADLINE_MS = 5000.0
"""Objective of a request that has none, as ``SLOAwarePolicy`` has it."""


class _Unfair:
    fair = False

    def charge(self, request: Arrival, forecast: Forecast) -> float:
        return 0.0


class DeadlineOrder(_Unfair):
    """Handicap = objective: the earliest deadline first."""

    name = "slo_aware"

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        return request.slo_ms or DEFAULT_DEADLINE_MS


class ShortestOrder(_Unfair):
    """Handicap = expected work: small requests first, and no large one starves."""

    name = "kv_aware"

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        return forecast.work_ms


class AdaptiveOrder(_Unfair):
    """By deadline where a request has an objective, by class where it has none.

    When nothing waits there is nothing to order, so "by class under load only" needs no switch.
    """

    name = "adaptive"

    def __init__(self) -> None:
        self._classes = _known("priority")

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        return request.slo_ms or self._classes.handicap(request, forecast)


_OWN: dict[str, Callable[[], Order]] = {
    "slo_aware": DeadlineOrder,
    "adaptive": AdaptiveOrder,
    "kv_aware": ShortestOrder,
}

POLICIES = (*ORDERS, *(name for name in _OWN if name not in ORDERS))
"""The names that ``scheduling_policy`` may be."""


def make_policy(policy: str | Order) -> Order:
    """The order of this name; an order of the caller's own is taken as it is.

    Raises:
        ValueError: lists the names that exist.
        TypeError: it is neither a name nor an order.
    """
    if not isinstance(policy, str):
        if not callable(getattr(policy, "handicap", None)):
            raise TypeError(f"scheduling_policy must be a name or have handicap(request, forecast), not {policy!r}")
        return policy
    if policy in ORDERS:
        return _known(policy)
    if policy in _OWN:
        return _OWN[policy]()
    raise ValueError(f"scheduling_policy {policy!r} is unknown: use one of {', '.join(POLICIES)}")


def _known(name: str) -> Order:
    return make_order(name, aging_ms=DEFAULT_AGING_S * 1000)
