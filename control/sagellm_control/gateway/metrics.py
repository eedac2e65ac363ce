"""What a gateway counts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ..client.pools import Pools

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

REQUESTS = Counter(
    "sagellm_control_requests_total",
    "Requests that were answered, by outcome: a request's own, or why it was not taken",
    ["endpoint", "priority", "outcome"],
)
TTFT = Histogram(
    "sagellm_control_request_ttft_seconds",
    "From the request's first byte at the gateway to the first byte of its answer",
    ["endpoint", "priority"],
    buckets=_SECONDS,
)
DURATION = Histogram(
    "sagellm_control_request_duration_seconds",
    "From the request's first byte at the gateway to the last byte of its answer",
    ["endpoint", "priority"],
    buckets=_SECONDS,
)
WAIT_ERROR = Histogram(
    "sagellm_control_flow_control_wait_prediction_error_seconds",
    "How much sooner or later than it was first told a waiting client's answer began, the engine's time to it included",
    ["pool", "came"],
    buckets=_SECONDS,
)
FAST_PATH = Counter(
    "sagellm_control_gateway_fast_path_total",
    "Requests that were accepted: assigned (by the gateway, as nobody was ahead of them), queued (for a scheduler)",
    ["pool", "result"],
)
SLO_VIOLATIONS = Counter(
    "sagellm_control_request_slo_violation_total",
    "Requests with an X-SLO-Deadline-Ms whose first byte came later",
    ["endpoint", "priority"],
)


OPEN = Gauge("sagellm_control_gateway_open_requests", "Requests whose answer is not complete")


class _Open:
    number = 0
    """A plain one: a gauge takes a lock each time."""


open_requests = _Open()
OPEN.set_function(lambda: open_requests.number)

# Remembered, as each request asks for them: a look-up in the library checks the labels and writes them out anew.


@cache
def requests(endpoint: str, priority: str, outcome: str) -> Counter:
    """Of ``REQUESTS``."""
    return REQUESTS.labels(endpoint, priority, outcome)


@cache
def ttft(endpoint: str, priority: str) -> Histogram:
    """Of ``TTFT``."""
    return TTFT.labels(endpoint, priority)


@cache
def duration(endpoint: str, priority: str) -> Histogram:
    """Of ``DURATION``."""
    return DURATION.labels(endpoint, priority)


class PoolCollector(Collector):
    """Queue lengths and engines of each pool, as last looked at."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Called by the registry for each scrape."""
        queue = GaugeMetricFamily(
            "sagellm_control_flow_control_queue_size",
            "Requests that no engine has yet: in an intake stream, or ranked in the waiting set",
            labels=["pool", "place"],
        )
        engines = GaugeMetricFamily(
            "sagellm_control_engines",
            "READY engines, and those of them that have room",
            labels=["pool", "state"],
        )
        for depth in self._pools.depths:
            for priority, count in depth.queued.items():
                queue.add_metric([depth.pool, f"intake_{priority}"], count)
            queue.add_metric([depth.pool, "waiting"], depth.waiting)
            engines.add_metric([depth.pool, "ready"], depth.engines)
            engines.add_metric([depth.pool, "with_room"], depth.open_engines)
        yield queue
        yield engines
