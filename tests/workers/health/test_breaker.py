"""The circuit breaker, by a clock that the test moves."""

from __future__ import annotations

import pytest

from sagellm_workers.health.breaker import BUCKETS, BreakerSettings, CircuitBreaker, CircuitState

SETTINGS = BreakerSettings(window_s=60, min_requests=10, error_rate=0.5, open_s=5, longest_open_s=60)


class Seconds:
    """A monotonic clock by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def breaker(seconds: Seconds) -> CircuitBreaker:
    return CircuitBreaker(SETTINGS, seconds)


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        breaker.record(False)


def test_it_needs_enough_requests(breaker: CircuitBreaker) -> None:
    fail(breaker, 9)
    assert breaker.state is CircuitState.CLOSED
    fail(breaker, 1)
    assert breaker.state is CircuitState.OPEN
    assert breaker.reason == "it failed 10 of 10 requests within 60 s"


def test_it_needs_enough_failures(breaker: CircuitBreaker) -> None:
    for _ in range(20):
        breaker.record(True)
    fail(breaker, 19)
    assert breaker.state is CircuitState.CLOSED
    fail(breaker, 1)
    assert breaker.state is CircuitState.OPEN


def test_a_success_never_opens_it(breaker: CircuitBreaker) -> None:
    fail(breaker, 9)
    breaker.record(True)
    assert breaker.state is CircuitState.CLOSED


def test_what_was_long_ago_does_not_count(breaker: CircuitBreaker, seconds: Seconds) -> None:
    fail(breaker, 9)
    seconds.now += SETTINGS.window_s + SETTINGS.window_s / BUCKETS
    fail(breaker, 9)
    assert breaker.state is CircuitState.CLOSED


def test_one_success_closes_it_after_a_while(breaker: CircuitBreaker, seconds: Seconds) -> None:
    fail(breaker, 10)
    breaker.record(True)  # had begun before
    assert breaker.state is CircuitState.OPEN
    assert breaker.opens_in_s == 5
    seconds.now += 5
    assert breaker.state is CircuitState.HALF_OPEN
    breaker.record(True)
    assert breaker.state is CircuitState.CLOSED
    fail(breaker, 9)
    assert breaker.state is CircuitState.CLOSED, "what was before it opened is forgotten"


def test_it_stays_open_longer_each_time_up_to_a_limit(breaker: CircuitBreaker, seconds: Seconds) -> None:
    fail(breaker, 10)
    waits: list[float] = []
    for _ in range(8):
        seconds.now += breaker.opens_in_s
        breaker.record(False)
        assert breaker.state is CircuitState.OPEN
        waits.append(breaker.opens_in_s)
    assert 8 <= waits[0] <= 10
    assert all(wait <= SETTINGS.longest_open_s for wait in waits)
    assert waits[-1] >= 0.8 * SETTINGS.longest_open_s
    seconds.now += breaker.opens_in_s
    breaker.record(True)
    fail(breaker, 10)
    assert breaker.opens_in_s == 5, "after a success it begins anew"


def test_it_remembers_no_more_for_many_requests(breaker: CircuitBreaker, seconds: Seconds) -> None:
    for _ in range(2000):
        breaker.record(True)
        seconds.now += 0.5
    assert len(breaker._buckets) <= BUCKETS + 1  # pyright: ignore[reportPrivateUsage]
