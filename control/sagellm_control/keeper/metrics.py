"""What the keeper counts."""

from __future__ import annotations

from prometheus_client import Counter

from ..store.steps.mend import Repair

LAPSED = Counter("sagellm_control_engine_lapses_total", "Engines whose worker's lease lapsed", ["pool"])
ORPHANS = Counter(
    "sagellm_control_orphans_cancelled_total",
    "Requests cancelled because their gateway was gone and nobody came back for them",
    ["pool"],
)
REQUEUED = Counter(
    "sagellm_control_lapse_requeued_total", "Requests given back because their worker was lost", ["pool"]
)
REPAIRS = Counter(
    "sagellm_control_keeper_repairs_total",
    "What did not agree with what is owned, by what was wrong; all but expired_waiting should stay 0",
    ["pool", "kind"],
)


def begin(pool: str) -> None:
    """Tell of the pool from 0 on, see ``begin`` of the scheduler's metrics."""
    for counter in (LAPSED, ORPHANS, REQUEUED):
        counter.labels(pool)
    for repair in Repair:
        REPAIRS.labels(pool, repair)
