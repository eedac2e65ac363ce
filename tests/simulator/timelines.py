"""Runs one engine by itself."""

from __future__ import annotations

from collections.abc import Sequence

from sagellm_control.simulator.agenda import Agenda
from sagellm_control.simulator.engine import Engine
from sagellm_control.simulator.engine_model import EngineModel
from sagellm_control.simulator.job import Job
from sagellm_control.wire.engine import EngineSpeed
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import Arrival

PLAIN = EngineModel(
    speed=EngineSpeed(prefill_tps=1000.0, step_ms=10.0, step_ms_per_answer=1.0),
    slots=4,
    chunk_tokens=100,
    kv_tokens=0,
    cache_blocks=100,
    block_tokens=10,
)
"""A token is read in 1 ms; a step of n answers takes 10 + n ms."""


def job(name: str, at_ms: float, prompt: int, output: int, prefix: Sequence[str] = ()) -> Job:
    """A request without objectives."""
    arrival = Arrival(name, RequestPriority.NORMAL, at_ms, prompt_tokens=prompt, prefix=tuple(prefix))
    return Job(arrival, output)


def run(model: EngineModel, *jobs: Job) -> Engine:
    """Submit each at its time; until all have ended."""
    agenda = Agenda()
    engine = Engine("e0", model, agenda, told=lambda _, what: None)
    for one in jobs:
        agenda.at(one.arrival.arrived_ms, lambda _, one=one: engine.submit(one))
    agenda.run(lambda _: None)
    return engine
