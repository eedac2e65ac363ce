"""Slow start, by a clock that the test moves."""

from __future__ import annotations

from sagellm_workers.health.slow_start import SlowStart


def test_it_grows_evenly_from_one_to_all() -> None:
    now = 0.0
    ramp = SlowStart(10.0, lambda: now)
    assert ramp.limit(8) is None, "an engine that never failed has all its places"
    ramp.begin()
    limits: list[int | None] = []
    for _ in range(11):
        limits.append(ramp.limit(8))
        now += 1.0
    assert limits == [1, 1, 1, 2, 3, 4, 4, 5, 6, 7, None]


def test_it_begins_anew() -> None:
    now = 0.0
    ramp = SlowStart(10.0, lambda: now)
    ramp.begin()
    now = 9.0
    ramp.begin()
    assert ramp.limit(8) == 1


def test_it_can_be_turned_off() -> None:
    ramp = SlowStart(0.0, lambda: 0.0)
    ramp.begin()
    assert ramp.limit(8) is None
