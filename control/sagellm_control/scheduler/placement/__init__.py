"""Placements: on which engine. One file each; ``PLACEMENTS`` knows them by name."""

from __future__ import annotations

from collections.abc import Callable

from .base import Placement
from .least_loaded import LeastLoadedPlacement
from .round_robin import RoundRobinPlacement

PLACEMENTS: dict[str, Callable[[], Placement]] = {
    "round_robin": RoundRobinPlacement,
    "least_loaded": LeastLoadedPlacement,
}

DEFAULT_PLACEMENT = "least_loaded"


def make_placement(name: str) -> Placement:
    """The placement of this name.

    Raises:
        ValueError: lists the names that exist.
    """
    if name not in PLACEMENTS:
        raise ValueError(f"unknown placement {name!r}: use one of {', '.join(PLACEMENTS)}")
    return PLACEMENTS[name]()


__all__ = [
    "DEFAULT_PLACEMENT",
    "PLACEMENTS",
    "LeastLoadedPlacement",
    "Placement",
    "RoundRobinPlacement",
    "make_placement",
]
