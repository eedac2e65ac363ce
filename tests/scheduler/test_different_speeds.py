"""The head of the line where engines are not equally fast."""

from __future__ import annotations

from sagellm_control.scheduler.forecast import Forecast
from sagellm_control.scheduler.head_of_line import Action, HeadOfLine, Look
from sagellm_control.scheduler.lateness import Lateness
from sagellm_control.scheduler.open_engines import OpenEngines
from sagellm_control.scheduler.policy_settings import WhenLate
from sagellm_control.wire.engine import EngineRow, EngineSpeed

from .line import Policies, actions, candidate, placed_on
from .requests import NOW_MS, forecast


def fast_and_slow(**free: int) -> OpenEngines:
    view = OpenEngines()
    for name, tps in (("fast", 10_000.0), ("slow", 2_500.0)):
        view.learn([EngineRow(name, "pool", "", "openai", 4, ("pool",), speed=EngineSpeed(prefill_tps=tps))])
    view.refresh({"fast": 4, "slow": 4} | free)
    return view


def typical(tokens: int) -> Forecast:
    return forecast(tokens, 0.0, tps=(10_000 + 2_500) / 2)


def test_who_would_be_late_on_a_slow_engine_waits_for_a_fast_one_while_that_can_be_in_time() -> None:
    view = fast_and_slow(fast=0)
    line = HeadOfLine(Policies(), view)
    asked, small = candidate("large", tokens=10_000, slo_ms=3000), candidate("small", tokens=1000, slo_ms=3000)
    look = Look()
    # 4 s on the slow engine, 1 s on the fast one: that is in time until 2 s from now.
    assert actions(line, look, [asked, small]) == [Action.PASS, Action.PLACE], "what is free is left to the others"
    assert (look.next_hold_ms, look.holding.total()) == (NOW_MS + 2000, 0)
    view.set_places("fast", 1)
    assert placed_on(line.decide(asked, Look(), NOW_MS + 1999)) == "fast"


def test_once_it_is_late_everywhere_it_steps_back_and_takes_what_there_is() -> None:
    line = HeadOfLine(Policies(), fast_and_slow(fast=0))
    asked = candidate("large", tokens=10_000, slo_ms=3000)
    asked.forecast = typical(10_000)
    assert line.decide(asked, Look(), NOW_MS + 1999).action is Action.PASS
    assert line.decide(asked, Look(), NOW_MS + 2001).action is Action.STEP_BACK
    late = candidate("large", tokens=10_000, slo_ms=3000, late=True)
    assert placed_on(line.decide(late, Look(), NOW_MS + 2001)) == "slow"


def test_late_is_what_the_fastest_engine_could_not_serve_in_time() -> None:
    view = fast_and_slow()
    line = HeadOfLine(Policies(), view)
    one = candidate(tokens=10_000, slo_ms=3000)
    one.forecast = typical(10_000)  # 1.6 s; on the fast one it is a second
    assert placed_on(line.decide(one, Look(), NOW_MS + 1900)) == "fast"


def test_without_an_objective_a_slow_engine_will_do() -> None:
    line = HeadOfLine(Policies(), fast_and_slow(fast=0))
    assert placed_on(line.decide(candidate(tokens=100_000), Look(), NOW_MS)) == "slow"


def only_the_slow_is_tuned() -> OpenEngines:
    view = fast_and_slow()
    view.learn([EngineRow("slow", "pool", "", "openai", 4, ("pool", "lora"), speed=EngineSpeed(prefill_tps=2_500.0))])
    return view


def test_nobody_waits_for_a_fast_engine_that_it_may_not_use() -> None:
    line = HeadOfLine(Policies(), only_the_slow_is_tuned())
    asked = candidate("large", tokens=10_000, slo_ms=4500, model="lora")
    asked.forecast = typical(10_000)
    assert placed_on(line.decide(asked, Look(), NOW_MS + 400)) == "slow"
    # 4 s on the slow one: 1 s on the fast one is nothing to it.
    assert line.decide(asked, Look(), NOW_MS + 600).action is Action.STEP_BACK
    anybody = candidate("any", tokens=10_000, slo_ms=4500)
    anybody.forecast = typical(10_000)
    assert placed_on(line.decide(anybody, Look(), NOW_MS + 600)) == "fast"
    unserved = candidate("unserved", tokens=10_000, slo_ms=4500, model="unknown")
    assert line.decide(unserved, Look(), NOW_MS + 400).action is Action.PASS


def test_who_may_use_the_slow_one_only_takes_it_as_late_as_it_is() -> None:
    view = only_the_slow_is_tuned()
    line = HeadOfLine(Policies(lateness=Lateness(WhenLate.SERVE)), view)
    asked = candidate("large", tokens=10_000, slo_ms=3000, model="lora")
    assert placed_on(line.decide(asked, Look(), NOW_MS)) == "slow"


def test_the_speeds_of_those_that_may_serve_it_are_kept_as_engines_come_and_go() -> None:
    view = only_the_slow_is_tuned()
    asked = candidate(model="lora").arrival
    assert (view.speeds_of(asked).fastest, view.speeds_of(asked).differ) == (2_500.0, False)
    view.learn([EngineRow("fast", "pool", "", "openai", 4, ("lora",), speed=EngineSpeed(prefill_tps=9_000.0))])
    assert (view.speeds_of(asked).fastest, view.speeds_of(asked).differ) == (9_000.0, True)
    view.close("fast")
    assert (view.speeds_of(asked).fastest, view.speeds_of(asked).differ) == (2_500.0, False)
