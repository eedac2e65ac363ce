"""The knee: the highest load at which sending every request at once to an engine still works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .early_binding import ROUTERS
from .fleet import FleetModel
from .job import NEVER, Job, Workload
from .run import EarlyBinding, simulate

WANTED = 0.9
"""Share of the requests of each class, interactive and batch, that have to meet their objectives."""
PRECISION = 0.01
"""The rate is found to one per cent."""
LEAST_FACTOR, MOST_FACTOR = 1 / 1024, 1024.0
"""Of the rate at which a single pass over the trace starts: outside of these nothing is looked for."""


@dataclass(slots=True, frozen=True)
class Knee:
    """What was found."""

    rate: float
    """Requests a second."""
    router: str
    """The one that still meets the objectives there."""


def find_knee(
    workload: Workload,
    fleet: FleetModel,
    *,
    told: Callable[[float, str | None], None] | None = None,
) -> Knee:
    """Bisect for the highest rate at which the best early-bound row still meets 90 % of the objectives.

    A row that fails at a rate is not asked again at higher ones, and a run ends as soon as it has missed too many: so
    most of the bisection costs one run a step.

    Args:
        told: called with each rate that was tried, and the router that met the objectives (None: no one did).
    """
    rate = workload.rate or 1.0
    low, high, best = 0.0, 0.0, ""
    candidates = list(ROUTERS)
    lowest, highest = rate * LEAST_FACTOR, rate * MOST_FACTOR
    while lowest < rate < highest and (not low or not high or high > low * (1 + PRECISION)):
        winner: str | None = None
        failed: list[str] = []
        for name in candidates:
            if _meets(name, workload, rate, fleet):
                winner = name
                break
            failed.append(name)
        if told is not None:
            told(rate, winner)
        if winner is None:
            high = rate
        else:
            low, best = rate, winner
            # The one that did it is asked first the next time; those that failed here would fail beyond.
            candidates = [winner, *(name for name in candidates if name not in failed and name != winner)]
        rate = (low + high) / 2 if low and high else (rate * 1.5 if low else rate / 1.5)
    return Knee(low or rate, best or "none")


def _meets(name: str, workload: Workload, rate: float, fleet: FleetModel) -> bool:
    jobs = workload.at_rate(rate)
    interactive = sum(job.interactive for job in jobs)
    # Of each class: that batch is in time while interactive requests are not is no load that an operator would accept.
    allowed = {
        is_interactive: int(count * (1 - WANTED) + 1e-9)
        for is_interactive, count in ((True, interactive), (False, len(jobs) - interactive))
    }
    missed: dict[bool, set[str]] = {True: set(), False: set()}
    failed = False

    def give_up(job: Job) -> bool:
        nonlocal failed
        arrival = job.arrival
        late = bool(arrival.slo_ms) and job.ttft_ms > arrival.slo_ms
        if late or (job.finished_ms != NEVER and not job.good):
            missed[job.interactive].add(arrival.id)
            failed = failed or len(missed[job.interactive]) > allowed[job.interactive]
        return failed

    simulate(jobs, fleet, lambda _, fleet: EarlyBinding(ROUTERS[name], fleet), give_up=give_up)
    return not failed
