"""A request of a workload, and what became of it in a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from ..wire.request import Arrival

NEVER = float("inf")


class Happening(StrEnum):
    """What an engine tells of a job."""

    PREFILLED = "prefilled"
    """Its prompt has been read by an engine that does nothing else; another one is to answer."""
    FIRST_TOKEN = "first_token"
    FINISHED = "finished"


@dataclass(slots=True)
class Job:
    """One request: what a scheduler sees of it, what only the engines (and an oracle) know, and what happened."""

    arrival: Arrival
    output_tokens: int
    """Tokens of its answer, 1 or more: nobody but the engine knows before it ends."""
    interactive: bool = True

    engine: str = ""
    """The last that had it."""
    blocks_on: str = ""
    """The engine that read its prompt and holds its KV blocks, for another one to answer it."""
    attempts: int = 0
    cached_tokens: int = 0
    """Of the prompt, found in the engine's prefix cache."""
    prefill_left: int = 0
    generated: int = 0
    """Tokens that it had made when it was preempted."""
    kv_tokens: int = 0
    """It holds so many at its start on the engine."""
    started_step: int = 0
    """Count of the engine's decode steps at which it made its first token there."""
    assigned_ms: float = NEVER
    first_token_ms: float = NEVER
    finished_ms: float = NEVER
    refused_ms: float = NEVER
    preempted: int = 0

    @property
    def ttft_ms(self) -> float:
        """From arrival; infinite for one that never made a token."""
        return self.first_token_ms - self.arrival.arrived_ms

    @property
    def tpot_ms(self) -> float:
        """Mean time per output token after the first; 0 where there is only one."""
        if self.finished_ms == NEVER:
            return NEVER
        return (self.finished_ms - self.first_token_ms) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0

    @property
    def e2e_ms(self) -> float:
        return self.finished_ms - self.arrival.arrived_ms

    @property
    def good(self) -> bool:
        """Whether it met its objectives."""
        arrival = self.arrival
        if self.finished_ms == NEVER or (arrival.slo_ms and self.ttft_ms > arrival.slo_ms):
            return False
        return not arrival.tpot_slo_ms or self.tpot_ms <= arrival.tpot_slo_ms


@dataclass(slots=True, frozen=True)
class Workload:
    """What arrives, in the order of arrival."""

    name: str
    jobs: tuple[Job, ...] = field(repr=False)

    @property
    def span_ms(self) -> float:
        """From the first arrival to the last."""
        return self.jobs[-1].arrival.arrived_ms - self.jobs[0].arrival.arrived_ms if self.jobs else 0.0

    @property
    def rate(self) -> float:
        """Requests a second, over the whole."""
        return 1000 * len(self.jobs) / self.span_ms if self.span_ms else 0.0

    def at_rate(self, rate: float) -> list[Job]:
        """Fresh jobs of the same sizes, with all times stretched so that so many come a second."""
        factor = self.rate / rate
        first = self.jobs[0].arrival.arrived_ms if self.jobs else 0.0
        return [
            replace(job, arrival=replace(job.arrival, arrived_ms=(job.arrival.arrived_ms - first) * factor))
            for job in self.jobs
        ]
