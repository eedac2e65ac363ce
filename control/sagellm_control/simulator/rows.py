"""The rows of the table: which deciders are compared, each run by itself, over as many cores as there are."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..scheduler.policy_settings import PolicySettings
from .agenda import Agenda
from .early_binding import ROUTERS
from .engine_worker import PaceRule
from .figures import Figures, figures_of
from .fleet import Fleet, FleetModel
from .job import Workload
from .late_binding import LateBinding
from .oracle import Oracle
from .run import Decider, EarlyBinding, simulate


class Kind(StrEnum):
    """What decides in a row."""

    OURS = "ours"
    EARLY_BINDING = "early_binding"
    ORACLE = "oracle"


@dataclass(slots=True, frozen=True)
class Case:
    """One row to be run: kind, order and placement; of early binding the router is the placement."""

    kind: Kind
    policy: str
    placement: str


@dataclass(slots=True, frozen=True)
class Setting:
    """What all rows of a table have in common."""

    fleet: FleetModel = field(default_factory=FleetModel)
    pool: PolicySettings = field(default_factory=PolicySettings)
    pace: PaceRule = field(default_factory=PaceRule)


@dataclass(slots=True, frozen=True)
class Row:
    """A row that has been run."""

    case: Case
    figures: Figures
    took_s: float

    def plain(self) -> dict[str, Any]:
        """For JSON. Without the time that it took: the same command gives the same file."""
        return {
            "kind": self.case.kind.value,
            "policy": self.case.policy,
            "placement": self.case.placement,
            **self.figures.plain(),
        }


def early_bindings() -> list[Case]:
    """All routers."""
    return [Case(Kind.EARLY_BINDING, "fifo", name) for name in ROUTERS]


def decider_of(case: Case, setting: Setting) -> Callable[[Agenda, Fleet], Decider]:
    """Who decides in this row."""
    if case.kind is Kind.EARLY_BINDING:
        return lambda _, fleet: EarlyBinding(ROUTERS[case.placement], fleet)
    if case.kind is Kind.ORACLE:
        return Oracle
    pool = setting.pool.model_copy(update={"policy": case.policy, "placement": case.placement})
    return lambda agenda, fleet: LateBinding(pool, agenda, fleet, pace=setting.pace)


def run_case(case: Case, workload: Workload, rate: float, setting: Setting) -> Row:
    """Run one row at so many requests a second."""
    began = time.perf_counter()
    jobs = workload.at_rate(rate)
    fleet = simulate(jobs, setting.fleet, decider_of(case, setting))
    return Row(case, figures_of(jobs, fleet), time.perf_counter() - began)


_shared: tuple[Workload, float, Setting] | None = None


def _run_shared(case: Case) -> Row:
    assert _shared is not None
    return run_case(case, *_shared)


def run_cases(
    cases: Iterable[Case], workload: Workload, rate: float, setting: Setting, *, processes: int = 0
) -> Iterator[Row]:
    """Run the rows, in parallel; they come in the order of the cases.

    Args:
        processes: 0: as many as there are cores.
    """
    wanted = list(cases)
    processes = min(processes or os.cpu_count() or 1, len(wanted))
    if processes <= 1:
        for case in wanted:
            yield run_case(case, workload, rate, setting)
        return
    global _shared
    _shared = (workload, rate, setting)
    # Forked, so that no child reads the trace again; nothing has been started yet that a fork could break.
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from pool.imap(_run_shared, wanted)
    _shared = None
