"""How a rank is written into the sorted set, so that reading it gives the same number back."""

from __future__ import annotations


def write_rank(rank: float) -> str:
    """Three decimals: ranks are times in ms, and a microsecond tells two arrivals of one batch apart."""
    return f"{rank:.3f}"
