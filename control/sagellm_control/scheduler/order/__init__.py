"""Orders: who is next. One file each; ``ORDERS`` knows them by name."""

from __future__ import annotations

from collections.abc import Callable

from .base import Order, rank_of
from .fifo import FifoOrder
from .priority import PriorityOrder

ORDERS: dict[str, Callable[[float], Order]] = {
    "fifo": lambda _aging_ms: FifoOrder(),
    "priority": PriorityOrder,
}
"""Name -> maker; the argument is the aging in ms a class."""

DEFAULT_ORDER = "priority"
DEFAULT_AGING_S = 60.0
"""A minute of head start a class: long against a burst, short against a person's patience with a batch job."""


def make_order(name: str, *, aging_ms: float) -> Order:
    """The order of this name.

    Raises:
        ValueError: lists the names that exist, or says what an aging may be.
    """
    if not 0 <= aging_ms < float("inf"):
        raise ValueError(f"aging must be 0 or more, not {aging_ms / 1000:g} s")
    if name not in ORDERS:
        raise ValueError(f"unknown policy {name!r}: use one of {', '.join(ORDERS)}")
    return ORDERS[name](aging_ms)


__all__ = ["DEFAULT_AGING_S", "DEFAULT_ORDER", "ORDERS", "FifoOrder", "Order", "PriorityOrder", "make_order", "rank_of"]
