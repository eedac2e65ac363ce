"""A pool's policy as plain fields of its settings hash."""

from __future__ import annotations

from typing import Any

import pytest

from sagellm_control.scheduler.order import ORDERS, make_order
from sagellm_control.scheduler.placement import PLACEMENTS, make_placement
from sagellm_control.scheduler.policy_settings import DEFAULTS, PolicySettings, WhenLate, read_policy_settings
from sagellm_control.scheduler.pool_policy import RANKING_SETTINGS


def test_the_default_is_recorded_as_nothing() -> None:
    assert DEFAULTS.fields() == {}
    assert read_policy_settings({}) == DEFAULTS


def test_what_is_recorded_is_read_back() -> None:
    settings = PolicySettings(policy="fair", inner="shortest", aging_s=2.5, late=WhenLate.REFUSE, hold_ms=10, bound=1.5)
    fields = settings.fields()
    assert fields == {
        "policy": "fair",
        "inner": "shortest",
        "aging_s": "2.5",
        "late": "refuse",
        "hold_ms": "10",
        "bound": "1.5",
    }
    assert read_policy_settings(fields | {"paused": "1"}) == settings


@pytest.mark.parametrize(
    ("field", "text", "says"),
    [
        ("aging_s", "-1", "aging_s must be greater than or equal to 0, not '-1'"),
        ("aging_s", "soon", "aging_s must be a valid number, unable to parse string as a number, not 'soon'"),
        ("hold_ms", "99999999", "hold_ms must be less than or equal to 60000, not '99999999'"),
        ("bound", "1", "bound must be greater than 1, not '1'"),
        ("late", "never", "late must be 'step_back', 'refuse' or 'serve', not 'never'"),
        ("stretch", "nan", "stretch must be less than or equal to 10000, not 'nan'"),
        ("inner", "priority", "inner must be 'fifo', 'slo_aware' or 'shortest', not 'priority'"),
    ],
)
def test_what_is_wrong_is_named_with_its_limit(field: str, text: str, says: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        read_policy_settings({field: text})
    assert str(caught.value) == says


def test_all_that_is_wrong_is_named() -> None:
    with pytest.raises(ValueError, match=r"aging_s must .*; hold_ms must "):
        read_policy_settings({"aging_s": "x", "hold_ms": "x"})


class _Read(PolicySettings):
    """Settings that remember which of them were read."""

    def __getattribute__(self, name: str) -> Any:
        if name in PolicySettings.model_fields:
            READ.add(name)
        return super().__getattribute__(name)


READ: set[str] = set()
PASSING = {"patience_s"}
"""Who is passed, and no rank."""


def test_what_an_order_is_made_with_changes_ranks() -> None:
    READ.clear()
    for name in ORDERS:
        make_order(name, _Read())
    assert {"aging_s", "stretch"} <= READ
    assert set(RANKING_SETTINGS) >= READ - PASSING, "another setting of an order: ranks have to be made anew"


def test_every_policy_is_made_with_the_settings_and_says_its_name() -> None:
    assert {make_order(name, DEFAULTS).name for name in ORDERS} == set(ORDERS)
    assert {make_placement(name, DEFAULTS).name for name in PLACEMENTS} == set(PLACEMENTS)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown policy 'x': use one of fifo, priority, slo_aware, fair, shortest"):
        make_order("x")
    with pytest.raises(ValueError, match="unknown placement 'x': use one of round_robin, least_loaded, power_of_two"):
        make_placement("x")
