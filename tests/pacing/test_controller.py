"""The pace controller, on an engine as small as one can be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_control.pacing import PaceController, PaceObjectives, Window
from sagellm_control.pacing.controller import LEAST_SHARE, MOST_DOWN_PER_S, MOST_SHARE, MOST_UP_PER_S

from .toy_engine import Second, ToyEngine, drive

TPOT_MS = 60.0
TPS = 20_000.0
OVERLOAD = 5.0
"""Requests/s; the engine serves some 1.5 within the objective."""


def controller(prior_tps: float = TPS) -> PaceController:
    return PaceController(PaceObjectives(TPOT_MS), prior_tps)


def kept(engine: ToyEngine, since_s: float) -> int:
    """Answers begun since then that kept the objective; very short ones say nothing about a pace."""
    return sum(a.tpot_ms <= TPOT_MS for a in engine.done if a.started_ms >= since_s * 1000 and a.output > 4)


def mean(seconds: list[Second], start_s: float, end_s: float) -> float:
    paces = [second.pace_tps for second in seconds if start_s <= second.at_s < end_s]
    return sum(paces) / len(paces)


@pytest.fixture(scope="module")
def best() -> int:
    """Answers within the objective with the best constant pace, from 60 s to 300 s."""
    found = []
    for share in (0.4, 0.45, 0.5, 0.55, 0.6):
        engine = ToyEngine()
        drive(engine, TPS * share, seconds=300, rate=OVERLOAD)
        found.append(kept(engine, 60))
    return max(found)


def test_the_toy_has_a_cliff(best: int) -> None:
    # What makes a pace necessary: a little too much, and nobody is served within the objective.
    engine = ToyEngine()
    drive(engine, TPS * 0.8, seconds=300, rate=OVERLOAD)
    assert kept(engine, 60) < 0.1 * best
    engine = ToyEngine()
    drive(engine, 0.0, seconds=300, rate=OVERLOAD)
    assert kept(engine, 60) < 0.1 * best


@pytest.mark.parametrize("noise", [0.0, 0.2], ids=["exact", "noisy"])
@pytest.mark.parametrize("prior_tps", [TPS, TPS / 2.5, TPS * 3], ids=["known", "thought slow", "thought fast"])
def test_it_finds_the_pace_within_a_minute_of_a_cold_start(best: int, prior_tps: float, noise: float) -> None:
    engine = ToyEngine()
    seconds = drive(engine, controller(prior_tps), seconds=300, rate=OVERLOAD, noise=noise)
    assert 0.45 * TPS < mean(seconds, 50, 70) < 0.68 * TPS
    assert kept(engine, 60) >= 0.93 * best


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_is_stable_under_noise(seed: int) -> None:
    seconds = drive(ToyEngine(), controller(), seconds=600, rate=OVERLOAD, noise=0.2, seed=seed)
    paces = sorted(second.pace_tps for second in seconds if second.at_s > 60)
    middle = paces[len(paces) // 2]
    assert 0.7 * middle < paces[len(paces) // 20]
    assert paces[-len(paces) // 20] < 1.3 * middle


def test_slower_engines_get_a_slower_pace() -> None:
    slow = ToyEngine(prefill_tps=TPS / 2, step_ms=30, step_ms_per_answer=0.6)
    seconds = drive(slow, controller(), seconds=200, rate=OVERLOAD)
    assert mean(seconds, 100, 200) < 0.4 * TPS


def test_it_opens_again_quickly_when_answers_get_shorter() -> None:
    # Long answers hold the pace down; a minute after they are gone it has found the higher one.
    engine = ToyEngine()
    pace = controller()
    held = drive(engine, pace, seconds=150, rate=OVERLOAD, output=1500)
    low = mean(held, 100, 150)
    free = drive(engine, pace, seconds=270, rate=OVERLOAD, output=60)
    assert mean(free, 210, 270) > 1.3 * low


def test_a_quiet_time_does_not_wind_it_up() -> None:
    engine, pace = ToyEngine(), controller()
    seconds = drive(engine, pace, seconds=260, rate=[(0, 1.2), (60, 0.05), (160, OVERLOAD)])
    assert mean(seconds, 150, 160) <= 1.1 * max(mean(seconds, 50, 60), 0.6 * TPS)
    # Whoever comes with the burst finds its objective kept.
    burst = [a for a in engine.done if a.started_ms >= 160_000 and a.output > 4]
    assert sum(a.tpot_ms <= TPOT_MS for a in burst) > 0.85 * len(burst)


windows = st.builds(
    Window, st.integers(0, 5000), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e5), st.integers(0, 64)
)


@given(st.lists(st.tuples(st.floats(-100, 20_000), windows), max_size=50), st.floats(1, 1e6))
def test_it_stays_within_its_bounds_and_its_slopes(seen: list[tuple[float, Window]], prior_tps: float) -> None:
    pace = PaceController(PaceObjectives(TPOT_MS, 2000.0), prior_tps)
    now_ms, before = 0.0, pace.pace_tps
    for step_ms, window in seen:
        now_ms += step_ms
        after = pace.observe(now_ms, window)
        assert LEAST_SHARE * prior_tps * 0.999 <= after <= MOST_SHARE * prior_tps * 1.001
        at_most_s = min(5.0, max(1.0, step_ms / 1000))
        assert (
            2.72 ** (-MOST_DOWN_PER_S * at_most_s) * 0.99
            <= after / before
            <= 2.72 ** (MOST_UP_PER_S * at_most_s) * 1.01
        )
        before = after


def test_never_below_what_makes_progress() -> None:
    pace = controller()
    for second in range(600):
        pace.observe(second * 1000.0, Window(10, 10 * 5000.0, 1000.0, 0.0, 10))
    assert pace.pace_tps == pytest.approx(LEAST_SHARE * TPS)
    for second in range(600, 640):
        pace.observe(second * 1000.0, Window(100, 100 * 10.0, pace.pace_tps, 0.0, 3))
    assert pace.pace_tps > 0.5 * TPS, "40 s later it is open again"


def test_without_objectives_it_is_off() -> None:
    pace = PaceController(PaceObjectives(), TPS)
    assert pace.pace_tps == pace.observe(1000.0, Window(10, 1e6, 1e6, 1e6, 10)) == 0


def test_nothing_seen_changes_nothing() -> None:
    pace = controller()
    before = pace.pace_tps
    for second in range(100):
        pace.observe(second * 1000.0, Window())
    assert pace.pace_tps == before


def test_a_late_first_token_slows_it_down_too() -> None:
    pace = PaceController(PaceObjectives(ttft_ms=1000.0), TPS)
    before = pace.pace_tps
    for second in range(20):
        pace.observe(second * 1000.0, Window(0, 0.0, pace.pace_tps, 5000.0, 5))
    assert pace.pace_tps < 0.7 * before


def test_a_speed_that_is_known_better_moves_the_bounds() -> None:
    pace = controller(1000.0)
    assert pace.observe(1000.0, Window(), prefill_tps=TPS) == pytest.approx(LEAST_SHARE * TPS)
