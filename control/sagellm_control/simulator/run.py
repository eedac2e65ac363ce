"""One run: a workload, engines, and who decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..wire.states import Stage
from .agenda import Agenda
from .early_binding import Router
from .engine import Engine
from .fleet import Fleet, FleetModel
from .job import Happening, Job


class Decider(Protocol):
    """Who decides which request goes where, and when."""

    def arrived(self, job: Job) -> None: ...

    def prefilled(self, job: Job) -> None:
        """Its prompt has been read, and another engine is to answer (its arrival's stage says so)."""
        ...

    def first_token(self, job: Job) -> None: ...

    def finished(self, job: Job) -> None: ...

    def lost(self, engine: Engine, jobs: list[Job]) -> None:
        """The engine is gone, with these on it."""
        ...

    def back(self, engine: Engine) -> None: ...

    def settle(self, now_ms: float) -> None:
        """Everything that happens at this time has happened."""
        ...


def simulate(
    jobs: list[Job],
    fleet_model: FleetModel,
    decider_of: Callable[[Agenda, Fleet], Decider],
    *,
    give_up: Callable[[Job], bool] | None = None,
) -> Fleet:
    """Run the jobs to their end; what became of each stands in it.

    Args:
        give_up: asked with every job that has ended, or made its first token; true ends the run there and then.
    """
    agenda = Agenda()
    stopped = False
    decider: Decider

    def told(job: Job, what: Happening) -> None:
        nonlocal stopped
        if what is Happening.PREFILLED:
            job.arrival.stage = Stage.DECODE
            decider.prefilled(job)
            return
        if what is Happening.FIRST_TOKEN:
            decider.first_token(job)
        else:
            decider.finished(job)
        stopped = stopped or (give_up is not None and give_up(job))

    fleet = Fleet(
        fleet_model,
        agenda,
        told=told,
        told_lost=lambda engine, lost: decider.lost(engine, lost),
        told_back=lambda engine: decider.back(engine),
    )
    decider = decider_of(agenda, fleet)
    for job in jobs:
        agenda.at(job.arrival.arrived_ms, lambda _, job=job: decider.arrived(job))
    agenda.run(decider.settle, stop=lambda: stopped)
    return fleet


class EarlyBinding:
    """Sends each request at once to the engine that the router chooses, for each stage where they are separated.

    Args:
        router: makes one, for each stage its own.
    """

    def __init__(self, router: Callable[[], Router], fleet: Fleet) -> None:
        self._beginning, self._answering = router(), router()
        self._fleet = fleet
        self._stranded: list[Job] = []

    def arrived(self, job: Job) -> None:
        up = self._fleet.up
        if able := [engine for engine in up if (engine.model.answers if job.arrival.stage else engine.model.begins)]:
            router = self._answering if job.arrival.stage else self._beginning
            router.choose(job, able).submit(job)
        else:
            self._stranded.append(job)

    def prefilled(self, job: Job) -> None:
        self.arrived(job)

    def first_token(self, job: Job) -> None: ...

    def finished(self, job: Job) -> None: ...

    def lost(self, engine: Engine, jobs: list[Job]) -> None:
        for job in jobs:  # the client sends it again
            self.arrived(job)

    def back(self, engine: Engine) -> None:
        stranded, self._stranded = self._stranded, []
        for job in stranded:
            self.arrived(job)

    def settle(self, now_ms: float) -> None: ...
