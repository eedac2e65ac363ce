"""What each order hands out, and the bound that its docstring states."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_control.scheduler.forecast import UNKNOWN, Forecast
from sagellm_control.scheduler.order import ORDERS, make_order, rank_of
from sagellm_control.scheduler.order.shortest import LONGEST_MS
from sagellm_control.scheduler.order.slo_aware import CLASS_SLO_MS, LONGEST_SLO_MS
from sagellm_control.scheduler.passing import may_pass
from sagellm_control.scheduler.policy_settings import PolicySettings
from sagellm_control.wire.priority import RequestPriority

from .requests import NOW_MS, forecast, request

AGING_S = 60.0
SETTINGS = PolicySettings(aging_s=AGING_S)

priorities = st.sampled_from(RequestPriority)
times = st.floats(0, 1e7)
forecasts = st.builds(Forecast, st.integers(0, 10**6), st.floats(0, 1e5), times, times)
requests = st.builds(
    request,
    priority=priorities,
    slo_ms=st.integers(0, 10**8),
    prompt_tokens=st.integers(0, 10**6),
    max_tokens=st.integers(0, 10**6),
)

MOST_MS = {
    "fifo": 0.0,
    "priority": 4 * AGING_S * 1000,
    "slo_aware": LONGEST_SLO_MS,
    "shortest": LONGEST_MS + 4 * AGING_S * 1000,
    "fair": 4 * AGING_S * 1000,
    "kv_aware": 4 * AGING_S * 1000,
    "adaptive": 4 * AGING_S * 1000,
}


@pytest.mark.parametrize("name", ORDERS)
@given(mine=requests, what=forecasts, theirs=requests, other=forecasts)
def test_nobody_is_passed_by_what_comes_much_later(name: str, mine, what, theirs, other) -> None:  # pyright: ignore
    order = make_order(name, SETTINGS)
    ahead_ms = max(0.0, -order.handicap(theirs, other))  # slo_aware: a prefill longer than its objective
    theirs.arrived_ms = mine.arrived_ms + MOST_MS[name] + ahead_ms + 1.0
    assert rank_of(order, mine, what) < rank_of(order, theirs, other)


@pytest.mark.parametrize("name", ORDERS)
@given(asked=requests, what=forecasts)
def test_it_is_a_number_and_always_the_same(name: str, asked, what) -> None:  # pyright: ignore
    order = make_order(name, SETTINGS)
    assert math.isfinite(order.handicap(asked, what))
    assert order.handicap(asked, what) == order.handicap(asked, what)
    assert order.charge(asked, what) >= 0
    assert (order.charge(asked, forecast()) > 0) == order.fair


@pytest.mark.parametrize("name", ORDERS)
def test_of_equal_requests_the_older_goes_first(name: str) -> None:
    order = make_order(name, SETTINGS)
    assert rank_of(order, request(), forecast()) < rank_of(order, request(at_ms=NOW_MS + 1), forecast())


def test_least_slack_first() -> None:
    order = make_order("slo_aware")
    soon, later = request(slo_ms=1000), request(slo_ms=3000)
    assert rank_of(order, soon, forecast()) < rank_of(order, later, forecast())
    # The one whose prefill takes longer has to start earlier.
    assert rank_of(order, later, forecast(40_000)) < rank_of(order, soon, forecast(100))
    assert order.handicap(soon, forecast(1000)) == 1000 - 100


@pytest.mark.parametrize("priority", RequestPriority)
def test_without_an_objective_the_class_has_one(priority: RequestPriority) -> None:
    asked = request(priority=priority)
    assert make_order("slo_aware").handicap(asked, UNKNOWN) == CLASS_SLO_MS[priority]
    assert make_order("slo_aware", PolicySettings(ttft_slo_ms=700)).handicap(asked, UNKNOWN) == 700


def test_the_shortest_first_and_the_long_one_ages() -> None:
    order = make_order("shortest", PolicySettings(stretch=20, aging_s=0))
    long, short = forecast(50_000, 10.0), forecast(500, 10.0)
    assert rank_of(order, request(), short) < rank_of(order, request(), long)
    gap_ms = order.handicap(request(), long) - order.handicap(request(), short)
    assert gap_ms == pytest.approx(20 * (5000 - 50))
    assert rank_of(order, request(), long) < rank_of(order, request(at_ms=NOW_MS + gap_ms + 1), short)


def test_shortest_of_requests_with_an_objective_the_class_does_not_count() -> None:
    order = make_order("shortest", SETTINGS)
    urgent, batch = RequestPriority.CRITICAL, RequestPriority.BACKGROUND
    with_one = [order.handicap(request(priority=p, slo_ms=1000), forecast()) for p in (urgent, batch)]
    without = [order.handicap(request(priority=p), forecast()) for p in (urgent, batch)]
    assert with_one[0] == with_one[1]
    assert without[1] - without[0] == 4 * AGING_S * 1000


def test_shortest_who_has_a_minute_lets_pass_who_has_a_second() -> None:
    order = make_order("shortest", PolicySettings(stretch=0))
    patient, urgent = request(slo_ms=60_000), request(slo_ms=1000, at_ms=NOW_MS + 50_000)
    assert rank_of(order, urgent, forecast()) < rank_of(order, patient, forecast())
    assert order.handicap(patient, forecast()) == 120_000


def test_shortest_a_long_prompt_with_an_objective_of_seconds_goes_before_one_of_a_minute() -> None:
    order = make_order("shortest", PolicySettings(stretch=20))
    long, patient = request(slo_ms=16_000), request(slo_ms=60_000)
    assert order.handicap(long, forecast(100_000, 100)) < order.handicap(patient, forecast(100, 100))


def test_fair_charges_by_tokens_and_weight() -> None:
    order = make_order("fair", PolicySettings(input_weight=1, output_weight=2, fair_tokens_per_s=1000))
    assert order.charge(request(), forecast(1000, 100)) == 1200
    assert order.charge(request(), forecast(1000, 100), 4.0) == 300
    assert order.charge(request(prompt_tokens=500), UNKNOWN) == 500
    assert math.isfinite(order.charge(request(), forecast(), 0.0))


@pytest.mark.parametrize("inner", ["fifo", "slo_aware", "shortest"])
def test_fair_composes_class_tenant_inner(inner: str) -> None:
    order = make_order("fair", PolicySettings.model_validate({"inner": inner, "aging_s": AGING_S}))
    alone = make_order(inner, PolicySettings(aging_s=AGING_S))
    asked = request(priority=RequestPriority.LOW, slo_ms=1000)
    assert order.handicap(asked, forecast()) == 3 * AGING_S * 1000 + alone.handicap(asked, forecast())


def test_kv_aware_has_patience() -> None:
    patient, other = make_order("kv_aware", PolicySettings(patience_s=40)), make_order("priority")
    assert patient.patience_ms == 40_000 > other.patience_ms > 0


def test_passing_is_bounded_by_rank() -> None:
    assert may_pass(NOW_MS + 5000, NOW_MS, 5000)
    assert not may_pass(NOW_MS + 5001, NOW_MS, 5000)
