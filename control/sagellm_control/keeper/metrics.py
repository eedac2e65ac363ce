"""What the keeper counts."""

from __future__ import annotations

from prometheus_client import Counter

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
