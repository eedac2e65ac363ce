"""What a worker learns of its engine: prefill speed, step times, answer lengths, pace."""

from __future__ import annotations

import math
import time

import pytest

from sagellm_control.wire.engine import EngineSpeed
from sagellm_workers.adapters.engine_priority import HIGH_FIRST, LOW_FIRST, with_priority
from sagellm_workers.observation.answer_length import AnswerLength
from sagellm_workers.observation.observation import EngineObservation

BODY = b'{"model":"m","messages":[]}'


def test_the_first_measurement_of_the_prefill_speed_replaces_the_guess() -> None:
    seen = EngineObservation(EngineSpeed(prefill_tps=8000.0, step_ms=0.0, step_ms_per_answer=0.0))
    assert (seen.prefill_tps, seen.predicted_first_s(1000)) == (None, None)
    seen.prefilled(1000, 0.5, alone=True)
    assert seen.prefill_tps == pytest.approx(2000)
    assert seen.predicted_first_s(1000) == pytest.approx(0.5)


def test_a_busy_engine_is_at_least_as_fast_as_seen() -> None:
    seen = EngineObservation(EngineSpeed(8000.0, 0.0, 0.0))
    seen.prefilled(1000, 0.5, alone=True)
    seen.prefilled(1000, 5.0, alone=False)  # it waited for others
    assert seen.prefill_tps == pytest.approx(2000)
    seen.prefilled(1000, 0.1, alone=False)
    assert (seen.prefill_tps or 0) > 2000


def test_an_engine_that_is_never_alone_is_measured_all_the_same() -> None:
    seen = EngineObservation(EngineSpeed(8000.0, 0.0, 0.0))
    for _ in range(50):
        seen.prefilled(1000, 0.5, alone=False)
    assert seen.speed().prefill_tps == pytest.approx(2000, rel=0.05)


def test_a_change_of_speed_is_followed() -> None:
    seen = EngineObservation(EngineSpeed(8000.0, 0.0, 0.0))
    for _ in range(30):
        seen.prefilled(1000, 1.0, alone=True)
    for _ in range(20):
        seen.prefilled(1000, 0.25, alone=True)
    assert seen.prefill_tps == pytest.approx(4000, rel=0.05)


def test_short_prompts_tell_nothing() -> None:
    seen = EngineObservation()
    seen.prefilled(10, 0.001, alone=True)
    assert seen.prefill_tps is None


def test_step_times_are_learned_by_the_size_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seen = EngineObservation()
    for second in range(300):
        running = 1 + second % 16
        for _ in range(running):
            seen.started(0)
        now[0] += 1.0
        seen.tokens(100, 100 * (0.005 + 0.001 * running))
        seen.window()
        for _ in range(running):
            seen.ended()
    speed = seen.speed()
    assert speed.step_ms == pytest.approx(5, rel=0.1)
    assert speed.step_ms_per_answer == pytest.approx(1, rel=0.1)


class Served:
    """An engine with three answers under way, of which each step brings a token to each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.seen = EngineObservation()
        for _ in range(3):
            self.seen.started(0)
        self._renewed = self.now

    def steps(self, number: int, step_s: float) -> None:
        for _ in range(number):
            self.now += step_s
            for _ in range(3):
                self.seen.tokens(1, step_s)
            if self.now > self._renewed + 1.7:
                self.seen.window()
                self._renewed = self.now

    @property
    def step_ms(self) -> float:
        speed = self.seen.speed()
        return speed.step_ms + 3 * speed.step_ms_per_answer


def test_a_stall_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(monkeypatch)
    served.steps(2000, 0.075)
    for _ in range(3):
        served.steps(1, 40.0)
        served.steps(5, 0.075)
    assert served.step_ms == pytest.approx(75, rel=0.05)


def test_an_engine_that_has_become_slow_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(monkeypatch)
    served.steps(2000, 0.075)
    served.steps(10, 6.0)
    assert served.step_ms == pytest.approx(6000 * (1 - math.exp(-1)), rel=0.2)
    slower = Served(monkeypatch)
    slower.steps(2000, 0.075)
    slower.steps(15, 1.0)
    assert slower.step_ms > 200


def test_the_first_steps_of_a_slow_engine_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(monkeypatch)
    served.steps(2, 20.0)
    assert served.step_ms > 1000


def test_a_window_holds_what_came_since_the_last() -> None:
    seen = EngineObservation()
    seen.started(500)
    seen.first(0.2)
    seen.tokens(3, 0.06)
    window = seen.window()
    assert (window.tokens, window.started_tokens, window.running) == (3, 500, 1)
    assert (window.token_ms, window.ttft_ms) == (pytest.approx(60), pytest.approx(200))
    seen.ended()
    again = seen.window()
    assert (again.tokens, again.ttft_ms, again.running) == (0, 0, 0)


@pytest.mark.parametrize(
    ("chunks", "tokens", "uncached"),
    [
        ([b'data: {"role"}\n\n', b'data: {"a"}\n\ndata: {"b"}\n\n', b'data: {"stop"}\n\ndata: [DONE]\n\n'], 3, None),
        (
            [
                b'data: {"a"}\n\n',
                b'data: {"choices":[],"usage":{"prompt_tokens":90,"completion_tokens":7,"prompt_tokens_details":'
                b'{"cached_tokens":64}}}\n\n',
            ],
            7,
            26,
        ),
        ([], None, None),
    ],
)
def test_the_length_of_a_stream(chunks: list[bytes], tokens: int | None, uncached: int | None) -> None:
    length = AnswerLength()
    for chunk in chunks:
        length.event(chunk)
    assert (length.output_tokens, length.uncached_tokens) == (tokens, uncached)


def test_the_length_of_a_whole_answer() -> None:
    length = AnswerLength()
    length.body(b'{"choices":[' + b" " * 10_000 + b'],"usage":{"completion_tokens":12,"prompt_tokens":5}}')
    assert (length.output_tokens, length.uncached_tokens) == (12, 5)


@pytest.mark.parametrize(
    ("priority", "order", "field"),
    [
        (0, LOW_FIRST, b'"priority":-2,'),
        (4, LOW_FIRST, b'"priority":2,'),
        (0, HIGH_FIRST, b'"priority":2,'),
        (4, HIGH_FIRST, b'"priority":-2,'),
        (2, LOW_FIRST, b""),
        (0, "", b""),
    ],
)
def test_the_class_is_passed_on_to_engines_that_know_one(priority: int, order: str, field: bytes) -> None:
    assert with_priority(BODY, priority, order) == b"{" + field + BODY[1:]


def test_a_priority_of_the_clients_own_is_left_alone() -> None:
    body = b'{"priority": 7, "model":"m"}'
    assert with_priority(body, 0, LOW_FIRST) == body


def test_predictions_are_finite() -> None:
    seen = EngineObservation(EngineSpeed(1.0, 0.0, 0.0))
    seen.prefilled(100, 0.0, alone=True)
    assert math.isfinite(seen.predicted_first_s(1e6) or 0)
