"""Makes a workload of a trace, or of nothing: classes, tenants, objectives, synthetic arrivals. All dice are seeded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..wire.priority import RequestPriority
from ..wire.request import Arrival
from .engine_model import EngineModel
from .job import Job, Workload
from .traces import TraceLine


@dataclass(slots=True, frozen=True)
class Objectives:
    """What counts as served in time."""

    ttft_ms: float = 1000.0
    """Of an interactive request: this and ``prefills`` times what its whole prompt takes on an idle engine."""
    prefills: float = 3.0
    tpot_ms: float = 60.0
    """Mean time per output token of an interactive request."""
    batch_ttft_ms: float = 60_000.0


@dataclass(slots=True, frozen=True)
class Mix:
    """Who sends."""

    batch_share: float = 0.0
    """Of the requests: batch (class LOW); the others are interactive (class NORMAL)."""
    tenants: int = 1
    aggressive: float = 1.0
    """The first tenant sends so many times what each other one does."""
    reject_late: bool = False
    """Whether callers ask to be refused once their objective cannot be met."""
    seed: int = 0


ALL_INTERACTIVE, USUAL_OBJECTIVES, USUAL_MODEL = Mix(), Objectives(), EngineModel()


def workload_of(
    name: str,
    lines: Sequence[TraceLine],
    *,
    mix: Mix = ALL_INTERACTIVE,
    objectives: Objectives = USUAL_OBJECTIVES,
    model: EngineModel = USUAL_MODEL,
) -> Workload:
    """The trace with classes, tenants and objectives given to its requests."""
    # Random() with a whole number gives the same on every machine and version, and random() is the one method whose
    # sequence Python promises to keep.
    dice = random.Random(mix.seed)
    shares = [mix.aggressive, *[1.0] * (mix.tenants - 1)]
    jobs: list[Job] = []
    for number, line in enumerate(lines):
        batch = dice.random() < mix.batch_share
        drawn = dice.random() * sum(shares)
        tenant = 0
        while tenant < len(shares) - 1 and drawn >= shares[tenant]:
            drawn -= shares[tenant]
            tenant += 1
        prefill_ms = model.prefill_ms(line.prompt_tokens)
        slo_ms = objectives.batch_ttft_ms if batch else objectives.ttft_ms + objectives.prefills * prefill_ms
        arrival = Arrival(
            id=f"r{number}",
            priority=RequestPriority.LOW if batch else RequestPriority.NORMAL,
            arrived_ms=line.at_ms,
            tenant=line.tenant or f"tenant-{tenant}",
            slo_ms=round(slo_ms),
            tpot_slo_ms=0 if batch else round(objectives.tpot_ms),
            prompt_tokens=line.prompt_tokens,
            prefix=line.prefix,
            reject_late=mix.reject_late,
        )
        jobs.append(Job(arrival, max(1, line.output_tokens), interactive=not batch))
    return Workload(name, tuple(jobs))


def without_tenant(workload: Workload, tenant: str) -> Workload:
    """The same without the requests of one tenant, at the same times."""
    return replace(workload, jobs=tuple(job for job in workload.jobs if job.arrival.tenant != tenant))
