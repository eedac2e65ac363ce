"""Requests and engines for tests of the pure part of the scheduler."""

from __future__ import annotations

from typing import Any

from sagellm_control.scheduler.forecast import Forecast
from sagellm_control.scheduler.open_engines import OpenEngines
from sagellm_control.wire.engine import EngineRow, EngineSpeed
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import Arrival

NOW_MS = 1_800_000_000_000.0
PROMPT = tuple(f"block{n}" for n in range(10))


def request(
    request_id: str = "r", *, priority: RequestPriority = RequestPriority.NORMAL, at_ms: float = NOW_MS, **fields: Any
) -> Arrival:
    return Arrival(request_id, priority, at_ms, **fields)


def forecast(prompt_tokens: int = 1000, output_tokens: float = 100.0, *, tps: float = 10_000.0) -> Forecast:
    """On an engine of this prefill speed, with decode steps of 20 ms."""
    return Forecast(prompt_tokens, output_tokens, prompt_tokens * 1000 / tps, output_tokens * 20.0)


def engines(*names: str, slots: int = 8, free: dict[str, int] | None = None, **row: Any) -> OpenEngines:
    """READY engines with equal rows, all places free but where ``free`` says otherwise."""
    view = OpenEngines()
    view.learn(EngineRow(name, "pool", "", "openai", slots, ("pool",), **row) for name in names)
    view.refresh(dict.fromkeys(names, slots) | (free or {}))
    return view


def load(view: OpenEngines, **requests: int) -> OpenEngines:
    """So many more requests on each."""
    for engine, number in requests.items():
        for _ in range(number):
            view.take(engine)
    return view


def affinity_view(**kw: object) -> OpenEngines:
    """Three engines of 64 places; "warm" has 8 of the 10 blocks of ``PROMPT``."""
    view = engines("warm", "cold", "other", slots=64, speed=EngineSpeed(prefill_tps=10_000), **kw)  # type: ignore[arg-type]
    view.prefixes.note("warm", PROMPT[:8])
    return view
