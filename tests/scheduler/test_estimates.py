"""Forecasts: sane from the first request on, and learned from those that ran."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_control.scheduler.estimates import (
    MOST_MEANS,
    MOST_WEIGHT,
    PRIOR_TOKENS,
    Estimates,
    LengthMean,
    bucket_of,
    names_of,
    read_length_mean,
)
from sagellm_control.wire.engine import EngineSpeed

from .requests import request


def test_the_first_request() -> None:
    what = Estimates().forecast(request(prompt_tokens=8000))
    assert (what.prompt_tokens, what.output_tokens) == (8000, PRIOR_TOKENS)
    assert what.prefill_ms == 1000.0
    assert what.decode_ms == pytest.approx(PRIOR_TOKENS * 15.3)


def test_never_more_than_the_client_allows() -> None:
    assert Estimates().forecast(request(max_tokens=5)).output_tokens == 5


def test_an_embedding_has_no_output() -> None:
    assert Estimates().forecast(request(kind="embedding", max_tokens=100)).output_tokens == 0


def test_a_tenant_is_learned_and_others_a_little() -> None:
    estimates = Estimates()
    for _ in range(100):
        estimates.settle("m", "talker", 1000, 900)
    mine, others = estimates.output_tokens("m", "talker", 1000), estimates.output_tokens("m", "other", 1000)
    assert 880 < mine <= 900
    assert PRIOR_TOKENS < others < mine
    assert estimates.output_tokens("another model", "talker", 1000) == PRIOR_TOKENS


def test_one_answer_is_not_yet_a_habit() -> None:
    estimates = Estimates()
    estimates.settle("m", "t", 0, 10_000)
    assert estimates.output_tokens("m", "t", 0) < 10_000 / 3


def test_it_follows_a_change_of_habit() -> None:
    estimates = Estimates()
    for tokens in [100] * 1000 + [500] * 200:
        estimates.settle("m", "t", 0, tokens)
    assert estimates.output_tokens("m", "t", 0) > 450


def test_the_speed_is_that_of_a_typical_engine() -> None:
    estimates = Estimates()
    estimates.learn_speed([EngineSpeed(10_000, 10, 0.1), EngineSpeed(30_000, 30, 0.3)], batch=10)
    what = estimates.forecast(request(prompt_tokens=20_000, max_tokens=100))
    assert what.prefill_ms == 1000.0
    assert what.decode_ms == pytest.approx(100 * (20 + 10 * 0.2))
    estimates.learn_speed([], batch=0)
    assert estimates.speed.prefill_tps == 20_000
    assert estimates.batch == 1


def test_what_is_stored_is_read_back() -> None:
    one, other = Estimates(), Estimates()
    stored: dict[str, str] = {}
    for tokens in (10, 400, 90):
        stored |= one.settle("m", "t", 512, tokens)
    assert set(stored) == set(names_of("m", "t", 512))
    other.learn({name.encode(): text.encode() for name, text in stored.items()})
    assert other.output_tokens("m", "t", 512) == pytest.approx(one.output_tokens("m", "t", 512), rel=1e-4)


@pytest.mark.parametrize("text", ["", "1", "a b", "nan nan", "1 -5", "-1 5", "1 2 3", "1e9 5", "1 inf", "0 0"])
def test_garbage_is_left_out(text: str) -> None:
    assert read_length_mean(text) is None
    estimates = Estimates()
    estimates.learn({b"m": text.encode()})
    assert estimates.output_tokens("m", "", 0) == PRIOR_TOKENS


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_a_mean_stays_within_what_it_has_seen(tokens: list[float]) -> None:
    mean = LengthMean()
    for each in tokens:
        mean.settle(each)
    assert min(tokens) - 1e-6 <= mean.tokens <= max(tokens) + 1e-6
    assert mean.weight == min(len(tokens), MOST_WEIGHT)


def test_buckets_are_doublings() -> None:
    assert [bucket_of(n) for n in (0, 1, 2, 3, 4, 255, 256)] == [0, 1, 2, 2, 3, 8, 9]


def test_it_remembers_no_more_than_it_may() -> None:
    estimates = Estimates()
    for number in range(MOST_MEANS):
        estimates.settle("m", f"t{number}", 0, 100)
    assert estimates.output_tokens("m", "t0", 0) == estimates.output_tokens("m", "never seen", 0)
