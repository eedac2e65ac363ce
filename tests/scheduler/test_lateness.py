"""The verdict on the head of the line."""

from __future__ import annotations

import pytest

from sagellm_control.scheduler.lateness import LATE_HANDICAP_MS, Lateness, Verdict, step_back_ms
from sagellm_control.scheduler.order import make_order
from sagellm_control.scheduler.policy_settings import PolicySettings, WhenLate

from .requests import NOW_MS, request

PREFILL_MS = 1000


@pytest.mark.parametrize(
    ("waited_ms", "verdict"), [(0, Verdict.PLACE), (2000, Verdict.PLACE), (2001, Verdict.STEP_BACK)]
)
def test_late_is_who_would_miss_its_objective_if_it_started_now(waited_ms: int, verdict: Verdict) -> None:
    assert Lateness().judge(request(slo_ms=3000), PREFILL_MS, NOW_MS + waited_ms) is verdict


def test_without_an_objective_nobody_is_late() -> None:
    assert Lateness(WhenLate.REFUSE).judge(request(), PREFILL_MS, NOW_MS + 1e9) is Verdict.PLACE
    assert Lateness().slack_ms(request(), 1000, NOW_MS) == float("inf")


def test_the_pools_objective_holds_for_requests_without_one() -> None:
    lateness = Lateness.of(PolicySettings(ttft_slo_ms=500, late=WhenLate.REFUSE))
    assert lateness.judge(request(), PREFILL_MS, NOW_MS) is Verdict.REFUSE
    assert lateness.judge(request(slo_ms=5000), PREFILL_MS, NOW_MS) is Verdict.PLACE


@pytest.mark.parametrize(
    ("late", "asks_for_refusal", "stepped_back", "verdict"),
    [
        (WhenLate.STEP_BACK, False, False, Verdict.STEP_BACK),
        (WhenLate.STEP_BACK, False, True, Verdict.PLACE),
        (WhenLate.STEP_BACK, True, False, Verdict.REFUSE),
        (WhenLate.SERVE, False, False, Verdict.PLACE),
        (WhenLate.SERVE, True, False, Verdict.REFUSE),
        (WhenLate.REFUSE, False, False, Verdict.REFUSE),
        (WhenLate.REFUSE, False, True, Verdict.REFUSE),
    ],
)
def test_what_becomes_of_it(late: WhenLate, asks_for_refusal: bool, stepped_back: bool, verdict: Verdict) -> None:
    asked = request(slo_ms=100, reject_late=asks_for_refusal)
    assert Lateness(late).judge(asked, PREFILL_MS, NOW_MS, stepped_back=stepped_back) is verdict


def test_what_an_engine_has_cached_can_save_it() -> None:
    assert Lateness().judge(request(slo_ms=500), PREFILL_MS, NOW_MS) is Verdict.STEP_BACK
    assert Lateness().judge(request(slo_ms=500), 400, NOW_MS) is Verdict.PLACE


def test_where_places_are_owed_nobody_steps_back() -> None:
    assert step_back_ms(make_order("fair"), request()) == 0.0
    assert step_back_ms(make_order("shortest"), request()) == LATE_HANDICAP_MS
    assert step_back_ms(make_order("priority"), request()) > LATE_HANDICAP_MS


def test_stepping_back_is_behind_every_class() -> None:
    assert 4 * PolicySettings().aging_ms < LATE_HANDICAP_MS
