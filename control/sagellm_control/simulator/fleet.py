"""The engines of a simulation, and what happens to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..wire.engine import EngineRole
from .agenda import Agenda
from .engine import Engine
from .engine_model import EngineModel
from .job import Happening, Job


@dataclass(slots=True, frozen=True)
class Failure:
    """An engine that is gone for a while."""

    engine: int
    """Its number, from 0."""
    at_ms: float
    down_ms: float


@dataclass(slots=True, frozen=True)
class FleetModel:
    """Which engines there are."""

    engines: int = 16
    model: EngineModel = field(default_factory=EngineModel)
    speeds: tuple[float, ...] = (1.0,)
    """Speed factors, given to the engines in turn."""
    roles: tuple[EngineRole, ...] = (EngineRole.GENERAL,)
    """Given to the engines in turn."""
    failures: tuple[Failure, ...] = ()

    def models(self) -> list[EngineModel]:
        """One an engine."""
        return [
            replace(
                self.model,
                factor=self.model.factor * self.speeds[number % len(self.speeds)],
                role=self.roles[number % len(self.roles)],
            )
            for number in range(self.engines)
        ]


class Fleet:
    """The engines, with their failures on the agenda.

    Args:
        told_lost: called with what an engine had when it failed, and the engine.
        told_back: called with an engine that has recovered.
    """

    def __init__(
        self,
        model: FleetModel,
        agenda: Agenda,
        *,
        told: Callable[[Job, Happening], None],
        told_lost: Callable[[Engine, list[Job]], None],
        told_back: Callable[[Engine], None],
    ) -> None:
        width = len(str(model.engines - 1))
        self.engines = [
            Engine(f"e{number:0{width}}", one, agenda, told=told) for number, one in enumerate(model.models())
        ]
        for failure in model.failures:
            engine = self.engines[failure.engine]
            agenda.at(failure.at_ms, lambda _, engine=engine: told_lost(engine, engine.fail()))

            def back(_: float, engine: Engine = engine) -> None:
                engine.recover()
                told_back(engine)

            agenda.at(failure.at_ms + failure.down_ms, back)

    @property
    def up(self) -> list[Engine]:
        """Those that can be used."""
        return [engine for engine in self.engines if engine.up]
