"""What a caller may say about a request beyond its body, for those who schedule it."""

from __future__ import annotations

from typing import TypedDict


class SchedulingHints(TypedDict, total=False):
    """Fields of ``NewRequest``; each may be left out."""

    tpot_slo_ms: int
    """Objective for the mean time per output token."""
    reject_late: bool
    """Refuse it as soon as it cannot meet its objective for the first token any more."""
    session: str
    """What a client names to have its requests on one engine."""
    prefix: tuple[str, ...]
    """Chained hashes of the prompt's blocks."""
    weight: float
    """Its tenant's share among tenants, from 0.0001 to 1000."""
    queue_ttl_ms: int
    """For how long it may wait for an engine."""
