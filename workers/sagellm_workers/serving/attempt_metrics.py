"""What is counted of the attempts on one engine."""

from __future__ import annotations

from sagellm_control.wire.engine import EngineRow

from .. import metrics
from ..attempts.attempt import Attempt


class AttemptMetrics:
    """The worker's metrics of one row (see docs/metrics.md)."""

    def __init__(self, row: EngineRow) -> None:
        self._labels = labels = (row.pool, row.engine_id)
        self.running = metrics.RUNNING.labels(*labels)
        self._ttft = metrics.ENGINE_TTFT.labels(*labels)
        self._ttft_error = metrics.TTFT_ERROR.labels(*labels)
        self._duration = metrics.ENGINE_DURATION.labels(*labels)

    def ended(self, attempt: Attempt) -> None:
        """It has run, with whatever result."""
        self._duration.observe(attempt.duration_s)
        if attempt.watch.first_byte_s is not None:
            self._ttft.observe(attempt.watch.first_byte_s)
            if attempt.watch.predicted_first_s is not None:
                self._ttft_error.observe(abs(attempt.watch.first_byte_s - attempt.watch.predicted_first_s))
        a = attempt.assignment
        queued_s = max(0.0, (a.assigned_ms - a.arrived_ms) / 1000)
        metrics.QUEUE_DURATION.labels(self._labels[0], a.priority.label).observe(queued_s)
        metrics.ATTEMPTS.labels(*self._labels, attempt.result).inc()
        if attempt.takeover is not None:
            metrics.TAKEOVERS.labels(*self._labels, attempt.result).inc()
