"""Orders: who is next. One file each; ``ORDERS`` knows them by name."""

from __future__ import annotations

from collections.abc import Callable

from ..policy_settings import DEFAULT_ORDER, DEFAULTS, PolicySettings
from .adaptive import AdaptiveOrder, PoolLoad
from .base import Order, rank_of
from .fair import FairOrder
from .fifo import FifoOrder
from .kv_aware import KvAwareOrder
from .priority import PriorityOrder
from .shortest import ShortestOrder
from .slo_aware import SloAwareOrder


def _fair(settings: PolicySettings) -> FairOrder:
    return FairOrder(
        ORDERS[settings.inner](settings),
        settings.aging_ms,
        input_weight=settings.input_weight,
        output_weight=settings.output_weight,
        tokens_per_s=settings.fair_tokens_per_s,
    )


def _shortest(settings: PolicySettings) -> ShortestOrder:
    return ShortestOrder(
        settings.stretch,
        settings.aging_ms,
        decode_share=settings.decode_share,
        ttft_slo_ms=settings.ttft_slo_ms,
    )


def _adaptive(settings: PolicySettings) -> AdaptiveOrder:
    return AdaptiveOrder({name: ORDERS[name](settings) for name in ("priority", "slo_aware", "shortest", "fair")})


ORDERS: dict[str, Callable[[PolicySettings], Order]] = {
    "fifo": lambda _: FifoOrder(),
    "priority": lambda s: PriorityOrder(s.aging_ms, s.least_share, decode_share=s.decode_share),
    "slo_aware": lambda s: SloAwareOrder(s.ttft_slo_ms),
    "fair": _fair,
    "shortest": _shortest,
    "kv_aware": lambda s: KvAwareOrder(s.aging_ms, s.patience_s * 1000, s.least_share, decode_share=s.decode_share),
    "adaptive": _adaptive,
}
"""Name -> maker."""


def make_order(name: str, settings: PolicySettings = DEFAULTS) -> Order:
    """The order of this name, with the pool's parameters.

    Raises:
        ValueError: lists the names that exist.
    """
    if name not in ORDERS:
        raise ValueError(f"unknown policy {name[:40]!r}: use one of {', '.join(ORDERS)}")
    return ORDERS[name](settings)


__all__ = [
    "DEFAULT_ORDER",
    "ORDERS",
    "AdaptiveOrder",
    "FairOrder",
    "FifoOrder",
    "KvAwareOrder",
    "Order",
    "PoolLoad",
    "PriorityOrder",
    "ShortestOrder",
    "SloAwareOrder",
    "make_order",
    "rank_of",
]
