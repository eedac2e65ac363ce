"""From a model's figures to how many engines it wants. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..manager.load import ModelLoad


@dataclass(slots=True, frozen=True)
class ScalingLimits:
    """Bounds, and what counts as too much or too little."""

    min_engines: int = 1
    max_engines: int = 8
    target_utilization: float = 0.6
    """Where a change aims at: fraction of the places that are taken, those that wait included."""
    high_utilization: float = 0.85
    low_utilization: float = 0.3
    longest_wait_ms: float = 1000.0
    """Of the next one in line."""
    slo_miss_rate: float = 0.05
    """Fraction of the requests with an objective that may miss it."""
    up_cooldown_s: float = 30.0
    """After any change: new engines need a while to be of use."""
    down_cooldown_s: float = 300.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_engines <= self.max_engines:
            raise ValueError(f"min_engines ({self.min_engines}) must be 0 or more, and max_engines not below it")
        if not 0 < self.low_utilization < self.target_utilization < self.high_utilization:
            raise ValueError("low_utilization < target_utilization < high_utilization must hold")


@dataclass(slots=True, frozen=True)
class Advice:
    """What to do about one model."""

    model_id: str
    change: int
    """Engines to add, or (negative) to take away."""
    reasons: list[str] = field(default_factory=list[str])
    load: ModelLoad | None = None


def advise(load: ModelLoad, limits: ScalingLimits, since_change_s: float = math.inf) -> Advice:
    """The advice for a model.

    Args:
        since_change_s: how long ago its number of engines was changed.
    """
    wanted, reasons = _wanted(load, limits)
    wanted = min(max(wanted, limits.min_engines), limits.max_engines)
    change = wanted - load.coming
    if change == 0:
        if reasons:
            reasons.append(f"{load.coming} engines are the limit, or on their way")
        return Advice(load.model_id, 0, reasons, load)
    cooldown_s = limits.up_cooldown_s if change > 0 else limits.down_cooldown_s
    if since_change_s < cooldown_s:
        reasons.append(f"changed {since_change_s:.0f} s ago, and {cooldown_s:.0f} s have to pass")
        return Advice(load.model_id, 0, reasons, load)
    if not reasons:
        reasons.append(f"{load.coming} engines, and the bounds are {limits.min_engines} to {limits.max_engines}")
    return Advice(load.model_id, change, reasons, load)


def _wanted(load: ModelLoad, limits: ScalingLimits) -> tuple[int, list[str]]:
    demand = load.active + load.waiting
    if not load.ready:
        if demand and load.coming == 0:
            return 1, [f"{demand} requests and no engine"]
        return load.coming, []
    each = load.places / load.ready
    used = demand / load.places if load.places else 1.0
    for_target = max(1, math.ceil(demand / (each * limits.target_utilization))) if each else load.ready
    reasons: list[str] = []
    if used > limits.high_utilization:
        reasons.append(f"utilization {used:.2f}, over {limits.high_utilization:.2f}")
    if load.waiting and load.wait_ms > limits.longest_wait_ms:
        reasons.append(f"{load.waiting} wait, the next for {load.wait_ms:.0f} ms, over {limits.longest_wait_ms:.0f}")
    if load.slo_miss_rate > limits.slo_miss_rate:
        reasons.append(f"{load.slo_miss_rate:.1%} miss their objective, over {limits.slo_miss_rate:.1%}")
    if reasons:
        return max(for_target, load.ready + 1, load.coming), reasons
    if used < limits.low_utilization and not load.waiting and for_target < load.coming:
        return for_target, [f"utilization {used:.2f}, under {limits.low_utilization:.2f}, and nobody waits"]
    return load.coming, []
