"""Placements: on which engine. One file each; ``PLACEMENTS`` knows them by name."""

from __future__ import annotations

from collections.abc import Callable

from ..policy_settings import DEFAULT_PLACEMENT, DEFAULTS, PolicySettings
from .base import Hold, Placement
from .consistent_hash import ConsistentHashPlacement
from .kv_cost import KvCostPlacement
from .least_loaded import LeastLoadedPlacement, least_loaded
from .pack import PackPlacement
from .power_of_two import PowerOfTwoPlacement
from .prefix_affinity import PrefixAffinityPlacement
from .round_robin import RoundRobinPlacement
from .session import SessionPlacement
from .soonest import SoonestPlacement
from .speed_aware import SpeedAwarePlacement

PLACEMENTS: dict[str, Callable[[PolicySettings], Placement]] = {
    "round_robin": lambda _: RoundRobinPlacement(),
    "least_loaded": lambda _: LeastLoadedPlacement(),
    "power_of_two": lambda _: PowerOfTwoPlacement(),
    "session": lambda s: SessionPlacement(s.hold_ms),
    "prefix_affinity": lambda s: PrefixAffinityPlacement(
        s.prefix_match, s.balance, s.guard_requests, s.guard_ratio, s.hold_ms
    ),
    "consistent_hash": lambda s: ConsistentHashPlacement(s.bound, s.hash_blocks),
    "kv_cost": lambda s: KvCostPlacement(s.prefill_weight, s.decode_weight, s.hold_ms),
    "pack": lambda s: PackPlacement(s.tpot_slo_ms),
    "soonest": lambda s: SoonestPlacement(s.hold_ms),
    "speed_aware": lambda _: SpeedAwarePlacement(),
}
"""Name -> maker."""


def make_placement(name: str, settings: PolicySettings = DEFAULTS) -> Placement:
    """The placement of this name, with the pool's parameters.

    Raises:
        ValueError: lists the names that exist.
    """
    if name not in PLACEMENTS:
        raise ValueError(f"unknown placement {name[:40]!r}: use one of {', '.join(PLACEMENTS)}")
    return PLACEMENTS[name](settings)


__all__ = [
    "DEFAULT_PLACEMENT",
    "PLACEMENTS",
    "Hold",
    "LeastLoadedPlacement",
    "Placement",
    "RoundRobinPlacement",
    "least_loaded",
    "make_placement",
]
