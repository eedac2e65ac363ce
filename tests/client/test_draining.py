"""How fast a pool drains, from when requests end."""

from __future__ import annotations

import pytest

from sagellm_control.client.draining import Draining


def rates(*ends_s: float, looks: int, first_ended: int = 7) -> list[float]:
    """The rate after each look, one a second, where requests end at these times."""
    draining = Draining(0.0, first_ended)
    found: list[float] = []
    for now_s in range(1, looks + 1):
        draining.look(float(now_s), first_ended + sum(end_s <= now_s for end_s in ends_s))
        found.append(draining.rate)
    return found


def test_long_answers_one_after_the_other_have_a_steady_rate() -> None:
    found = rates(*(3.5 + 6 * n for n in range(20)), looks=100)
    assert found[:4] == [0.0] * 4
    assert all(1 / 10 < rate < 1 / 4 for rate in found[4:9])
    assert found[9:] == [pytest.approx(1 / 6, rel=0.2)] * 91


def test_short_answers() -> None:
    assert rates(*(n / 40 for n in range(4000)), looks=90)[4:] == [pytest.approx(40, rel=0.1)] * 86


def test_it_forgets() -> None:
    slow, fast = [float(n) for n in range(1, 51)], [50 + n / 10 for n in range(1, 500)]
    found = rates(*slow, *fast, looks=70)
    assert found[49] == pytest.approx(1, rel=0.1)
    assert found[69] == pytest.approx(10, rel=0.1)


def test_when_nothing_ends_any_more_it_falls() -> None:
    found = rates(*(float(n) for n in range(1, 31)), looks=90)
    assert found[29] == pytest.approx(1, rel=0.1)
    assert found[29] > found[50] > found[89] > 0
    assert found[89] < 0.2


def test_nothing_has_ended() -> None:
    assert rates(looks=20) == [0.0] * 20


def test_counters_that_begin_anew() -> None:
    draining = Draining(0.0, 100)
    for now_s, ended in ((3.0, 103), (6.0, 106), (9.0, 1), (12.0, 4)):
        draining.look(now_s, ended)
    assert draining.rate == pytest.approx(1.0)
