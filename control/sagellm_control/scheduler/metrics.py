"""What a scheduler counts."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

ADMITTED = Counter(
    "sagellm_control_scheduler_admitted_total",
    "Arrivals that left their intake stream, by what became of them",
    ["pool", "result"],
)
ASSIGNED = Counter(
    "sagellm_control_scheduler_assigned_total", "Waiting requests that were assigned to an engine", ["pool"]
)
STALE = Counter(
    "sagellm_control_scheduler_stale_decisions_total",
    "Commits that stopped because another scheduler or arrival was quicker",
    ["pool"],
)
MISSED_WAKEUPS = Counter(
    "sagellm_control_scheduler_missed_wakeups_total",
    "Requests that only the slow sweep found a place for; should stay 0",
    ["pool"],
)
RECLAIMED = Counter(
    "sagellm_control_scheduler_reclaimed_total", "Entries taken over from schedulers that are gone", ["pool"]
)
BATCH = Histogram(
    "sagellm_control_scheduler_batch_size",
    "Requests decided on in one commit",
    ["pool"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000),
)
PREDICTED_TTFT = Histogram(
    "sagellm_control_scheduler_predicted_ttft_seconds",
    "Time from arrival to the first token that is predicted when a request is given to an engine; "
    "sagellm_control_engine_ttft_prediction_error_seconds of the workers says how far off the engine's part was",
    ["pool"],
    buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
LATE = Counter(
    "sagellm_control_scheduler_late_total",
    "Waiting requests that could not meet their objective any more: late (stepped back), refused, shed (overload)",
    ["pool", "result"],
)
QUEUE_EXPIRED = Counter(
    "sagellm_control_scheduler_queue_expired_total", "Requests that waited for as long as their class may", ["pool"]
)
RERANKED = Counter(
    "sagellm_control_scheduler_reranked_total", "Waiting requests ranked anew after a change of policy", ["pool"]
)
POLICY_FAILURES = Counter(
    "sagellm_control_scheduler_policy_failures_total",
    "Orders and placements that raised or gave nonsense; the request ranked as under FIFO, or went to the least loaded",
    ["pool", "policy"],
)


def begin(pool: str) -> None:
    """Tell of the pool from 0 on: what first appears with its first count is no increase to Prometheus."""
    for counter in (ASSIGNED, STALE, MISSED_WAKEUPS, RECLAIMED, QUEUE_EXPIRED, RERANKED):
        counter.labels(pool)
