"""What came out of a run, in figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..scheduler.policy_settings import DEFAULTS
from .fleet import Fleet
from .job import NEVER, Job


@dataclass(slots=True, frozen=True)
class Percentiles:
    """Of those that have the value (ms)."""

    p50: float
    p95: float
    p99: float


@dataclass(slots=True, frozen=True)
class Figures:
    """Of one run. Shares are 0 to 1 of all requests of their group, refused ones included; None: there are none."""

    requests: int
    goodput: float
    """Met their objectives for the first token and for the time per token."""
    interactive_attainment: float | None
    batch_attainment: float | None
    refused: int
    ttft_attainment: float
    tpot_attainment: float
    ttft_ms: Percentiles
    tpot_ms: Percentiles
    e2e_ms: Percentiles
    interactive_ttft_ms: Percentiles
    prefix_hit_rate: float
    """Prompt tokens that were cached where the prompt was read, of all."""
    utilisation: float
    """Part of the time that an engine was busy, to the end of the last request."""
    imbalance: float
    """Prompt tokens read by the engine that read most, over the mean (by speed where they differ)."""
    longest_wait_ms: float
    """From arrival to an engine."""
    longest_ttft_ms: float
    service_gap_tokens: float
    """Largest gap between what two tenants that both had requests waiting were handed: see ``service_gap``."""
    preemptions: int
    makespan_ms: float
    tenants: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Tenant -> requests, goodput, ttft_p95_ms, tokens; at most the 20 largest."""

    def plain(self) -> dict[str, Any]:
        """For JSON: what is infinite is null."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def figures_of(jobs: Sequence[Job], fleet: Fleet) -> Figures:
    """The figures of a run that has ended."""
    end = max((job.finished_ms for job in jobs if job.finished_ms != NEVER), default=0.0)
    engines = fleet.engines
    prompt = sum(engine.totals.prompt_tokens for engine in engines)
    read = [engine.totals.prompt_tokens / engine.model.factor for engine in engines if engine.model.begins]
    waits = [min(job.assigned_ms, job.refused_ms) - job.arrival.arrived_ms for job in jobs]
    served = [job for job in jobs if job.finished_ms != NEVER]
    return Figures(
        requests=len(jobs),
        goodput=_share(jobs) or 0.0,
        interactive_attainment=_share([job for job in jobs if job.interactive]),
        batch_attainment=_share([job for job in jobs if not job.interactive]),
        refused=sum(job.refused_ms != NEVER for job in jobs),
        ttft_attainment=sum(not job.arrival.slo_ms or job.ttft_ms <= job.arrival.slo_ms for job in jobs) / len(jobs),
        tpot_attainment=sum(not job.arrival.tpot_slo_ms or job.tpot_ms <= job.arrival.tpot_slo_ms for job in jobs)
        / len(jobs),
        ttft_ms=percentiles(job.ttft_ms for job in served),
        tpot_ms=percentiles(job.tpot_ms for job in served if job.output_tokens > 1),
        e2e_ms=percentiles(job.e2e_ms for job in served),
        interactive_ttft_ms=percentiles(job.ttft_ms for job in served if job.interactive),
        prefix_hit_rate=sum(engine.totals.cached_tokens for engine in engines) / prompt if prompt else 0.0,
        utilisation=sum(engine.totals.busy_ms for engine in engines) / len(engines) / end if end else 0.0,
        imbalance=max(read) * len(read) / sum(read) if sum(read) else 1.0,
        longest_wait_ms=max((wait for wait in waits if wait != NEVER), default=0.0),
        longest_ttft_ms=max((job.ttft_ms for job in served), default=0.0),
        service_gap_tokens=service_gap(jobs),
        preemptions=sum(engine.totals.preemptions for engine in engines),
        makespan_ms=end,
        tenants=_tenants(jobs),
    )


def percentiles(values: Iterable[float]) -> Percentiles:
    """Nearest rank; 0 where there are no values."""
    ordered = sorted(values)
    if not ordered:
        return Percentiles(0.0, 0.0, 0.0)

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return Percentiles(at(0.5), at(0.95), at(0.99))


def service_gap(jobs: Sequence[Job]) -> float:
    """Largest difference between two tenants, in weighted tokens handed to engines while both had requests waiting
    (weights: the fair order's usual ones).

    Measured from the moment at which both wait: each such spell starts from nothing.
    """
    tenants = sorted({job.arrival.tenant for job in jobs})
    if len(tenants) < 2:
        return 0.0
    events: list[tuple[float, int, int, float]] = []
    number = {tenant: place for place, tenant in enumerate(tenants)}
    for job in jobs:
        tenant = number[job.arrival.tenant]
        gone = min(job.assigned_ms, job.refused_ms)
        cost = DEFAULTS.input_weight * job.arrival.prompt_tokens + DEFAULTS.output_weight * job.output_tokens
        events.append((job.arrival.arrived_ms, 0, tenant, 0.0))
        events.append((gone, 1, tenant, cost if job.assigned_ms != NEVER else 0.0))
    events.sort()
    waiting = [0] * len(tenants)
    served = [0.0] * len(tenants)
    # What was the difference when the spell in which both wait began; the most and least since.
    most = 0.0
    began: dict[tuple[int, int], float] = {}
    for _, kind, tenant, cost in events:
        served[tenant] += cost
        waiting[tenant] += 1 if kind == 0 else -1
        starts_or_ends = (kind == 0 and waiting[tenant] == 1) or (kind == 1 and not waiting[tenant])
        if not cost and not starts_or_ends:
            continue
        for other in range(len(tenants)):
            if other == tenant or not waiting[other]:
                continue
            pair = (min(tenant, other), max(tenant, other))
            difference = served[pair[0]] - served[pair[1]]
            if kind == 0 and waiting[tenant] == 1:
                began[pair] = difference
            elif pair in began:
                most = max(most, abs(difference - began[pair]))
                if not waiting[tenant]:
                    del began[pair]
    return most


def _tenants(jobs: Sequence[Job]) -> dict[str, dict[str, float]]:
    of: dict[str, list[Job]] = {}
    for job in jobs:
        of.setdefault(job.arrival.tenant, []).append(job)
    if len(of) < 2:
        return {}
    largest = sorted(of.items(), key=lambda item: (-len(item[1]), item[0]))[:20]
    return {
        tenant: {
            "requests": len(theirs),
            "goodput": _share(theirs) or 0.0,
            "ttft_p95_ms": percentiles(job.ttft_ms for job in theirs if job.finished_ms != NEVER).p95,
            "tokens": sum(job.arrival.prompt_tokens + job.output_tokens for job in theirs if job.finished_ms != NEVER),
        }
        for tenant, theirs in largest
    }


def _share(jobs: Sequence[Job]) -> float | None:
    return sum(job.good for job in jobs) / len(jobs) if jobs else None


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}  # pyright: ignore
    return value
