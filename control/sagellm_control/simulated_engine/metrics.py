"""GET /metrics: the engine's numbers for Prometheus, read when asked so that no token pays for them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .engine import Engine


class EngineCollector(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        batcher, counts = self._engine.batcher, self._engine.counts
        yield GaugeMetricFamily("simulated_engine_slots", "Answers made at the same time.", batcher.slots)
        yield GaugeMetricFamily("simulated_engine_running", "Answers that hold a slot.", batcher.running)
        yield GaugeMetricFamily("simulated_engine_waiting", "Answers that wait for a slot.", batcher.waiting)
        yield CounterMetricFamily("simulated_engine_generated_tokens", "Output tokens made.", batcher.generated_tokens)
        requests = CounterMetricFamily(
            "simulated_engine_requests", "Requests that are over, by outcome.", labels=["outcome"]
        )
        requests.add_metric(["finished"], counts.finished)
        requests.add_metric(["aborted"], counts.aborted)
        requests.add_metric(["refused"], counts.refused)
        requests.add_metric(["faulted"], counts.faulted)
        yield requests


class EngineMetrics:
    """A registry of its own: several engines live in one test process."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(engine))

    def text(self) -> bytes:
        return generate_latest(self._registry)
