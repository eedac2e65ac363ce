"""What a worker counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

QUEUE_DURATION = Histogram(
    "sagellm_control_request_queue_duration_seconds",
    "From accept to assignment to an engine",
    ["pool", "priority"],
    buckets=_SECONDS,
)
ENGINE_TTFT = Histogram(
    "sagellm_control_engine_ttft_seconds",
    "From the call of the engine to the first bytes of its answer",
    ["pool", "engine"],
    buckets=_SECONDS,
)
ENGINE_DURATION = Histogram(
    "sagellm_control_engine_request_duration_seconds",
    "From the call of the engine to the end of its answer",
    ["pool", "engine"],
    buckets=_SECONDS,
)
ATTEMPTS = Counter("sagellm_control_attempts_total", "Attempts that ended, by how", ["pool", "engine", "result"])
TAKEOVERS = Counter(
    "sagellm_control_model_migration_total",
    "Attempts that went on with the answer of a lost one, by how they ended",
    ["pool", "engine", "result"],
)
RUNNING = Gauge("sagellm_control_engine_running_requests", "Attempts under way", ["pool", "engine"])
ENGINE_READY = Gauge("sagellm_control_engine_ready", "1: the engine is READY", ["pool", "engine"])
CIRCUIT = Gauge(
    "sagellm_control_worker_cb_state",
    "Circuit breaker: 0 closed, 1 open, 2 half-open",
    ["pool", "engine"],
)
CIRCUIT_OPENED = Counter("sagellm_control_worker_cb_opened_total", "Times that it opened", ["pool", "engine"])
STAND_IN_RENEWALS = Counter(
    "sagellm_control_stand_in_renewals_total",
    "Leases renewed by the thread that stands in for a blocked event loop; should stay 0",
    ["pool", "engine"],
)
LEASES_LOST = Counter("sagellm_control_leases_lost_total", "Leases that could not be renewed", ["pool", "engine"])
ENGINE_TPOT = Gauge(
    "sagellm_control_engine_tpot_seconds", "Mean time between two tokens of an answer, of late", ["pool", "engine"]
)
PACE = Gauge(
    "sagellm_control_engine_pace_tokens_per_second",
    "Uncached prompt tokens a second that may start while answers run; 0: no bound",
    ["pool", "engine"],
)
PREFILL_SPEED = Gauge(
    "sagellm_control_engine_prefill_tokens_per_second", "Prompt tokens a second, as measured", ["pool", "engine"]
)
TTFT_ERROR = Histogram(
    "sagellm_control_engine_ttft_prediction_error_seconds",
    "How far the predicted time to the first token was off, too long or too short",
    ["pool", "engine"],
    buckets=_SECONDS,
)
EVENTS = Counter("sagellm_control_output_events_total", "Events written to output logs", ["pool", "engine"])
EVENT_BYTES = Counter("sagellm_control_output_bytes_total", "Bytes written to output logs", ["pool", "engine"])


_OF_ENGINES = (
    *(ENGINE_TTFT, ENGINE_DURATION, ATTEMPTS, TAKEOVERS, RUNNING, ENGINE_READY, CIRCUIT, CIRCUIT_OPENED),
    *(STAND_IN_RENEWALS, LEASES_LOST, ENGINE_TPOT, PACE, PREFILL_SPEED, TTFT_ERROR, EVENTS, EVENT_BYTES),
)


def begin(pool: str, engine: str) -> None:
    """Tell of the engine from 0 on: what first appears with its first count is no increase to Prometheus."""
    for counter in (CIRCUIT_OPENED, STAND_IN_RENEWALS, LEASES_LOST):
        counter.labels(pool, engine)


def forget(pool: str, engine: str) -> None:
    """An engine is served no longer: a worker that adopts engines would tell of all that it ever had."""
    for metric in _OF_ENGINES:
        metric.remove_by_labels({"pool": pool, "engine": engine})
