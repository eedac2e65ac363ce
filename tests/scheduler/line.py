"""Candidates at the head of a line, and what is decided about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sagellm_control.scheduler.head_of_line import Action, Candidate, Decision, HeadOfLine, Look
from sagellm_control.scheduler.lateness import LATE_HANDICAP_MS, Lateness
from sagellm_control.scheduler.order import Order, make_order
from sagellm_control.scheduler.overload import OverloadMode
from sagellm_control.scheduler.placement import Placement, make_placement
from sagellm_control.scheduler.policy_settings import PolicySettings

from .requests import NOW_MS, forecast, request


@dataclass
class Policies:
    order: Order = field(default_factory=lambda: make_order("fifo"))
    placement: Placement = field(default_factory=lambda: make_placement("least_loaded"))
    lateness: Lateness = field(default_factory=Lateness)
    overload: OverloadMode = field(default_factory=lambda: OverloadMode(PolicySettings()))


def candidate(
    name: str = "r", *, behind_ms: float = 0.0, tokens: int = 1000, late: bool = False, **more: Any
) -> Candidate:
    arrival = request(name, at_ms=NOW_MS + behind_ms, **more)
    return Candidate(arrival, forecast(tokens, 0.0), arrival.arrived_ms + LATE_HANDICAP_MS * late, late, tried=False)


def actions(line: HeadOfLine, look: Look, candidates: Iterable[Candidate], now_ms: float = NOW_MS) -> list[Action]:
    return [line.decide(one, look, now_ms).action for one in candidates]


def placed_on(decision: Decision) -> str:
    assert decision.action is Action.PLACE
    assert decision.taken is not None
    return decision.taken.engine
