"""The policies that the manager knows by name: the scheduler's orders."""

from __future__ import annotations

from ..scheduler.order import ORDERS, Order, make_order

POLICIES = tuple(ORDERS)
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
    if policy not in ORDERS:
        raise ValueError(f"scheduling_policy {policy!r} is unknown: use one of {', '.join(POLICIES)}")
    return make_order(policy)
