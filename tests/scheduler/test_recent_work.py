"""What engines were handed lately: kept in one number each, and comparable at any time."""

from __future__ import annotations

import pytest

from sagellm_control.scheduler.engine_load import EngineRoom
from sagellm_control.scheduler.open_engines import OpenEngines
from sagellm_control.scheduler.recent_work import HALF_LIFE_MS, work_ms
from sagellm_control.wire.engine import EngineRow, EngineSpeed
from sagellm_control.wire.states import Stage

from .requests import NOW_MS, engines, forecast, request


def view_of(*names: str) -> OpenEngines:
    view = engines(*names, slots=64, speed=EngineSpeed(prefill_tps=10_000))
    view.open_due(NOW_MS)
    return view


def work_s(view: OpenEngines, engine: str, now_ms: float = NOW_MS) -> float:
    load = view.load_of(engine)
    assert load is not None
    return work_ms(load.recent, now_ms) / 1000


def least_first(view: OpenEngines) -> list[str]:
    return list(view.by_recent(request()))


def test_it_is_the_time_to_read_the_prompts_and_fades() -> None:
    view = view_of("a", "b")
    view.reserve("a", request(), forecast(80_000), NOW_MS)
    assert work_s(view, "a") == pytest.approx(8.0, rel=0.01)  # pyright: ignore
    later = NOW_MS + HALF_LIFE_MS
    assert work_s(view, "a", later) == pytest.approx(4.0, rel=0.01)  # pyright: ignore
    view.reserve("a", request(), forecast(10_000), later)
    assert work_s(view, "a", later) == pytest.approx(5.0, rel=0.01)  # pyright: ignore


def test_engines_are_sorted_by_it_however_old_it_is() -> None:
    view = view_of("a", "b", "c")
    view.reserve("a", request(), forecast(80_000), NOW_MS)
    view.reserve("b", request(), forecast(50_000), NOW_MS + HALF_LIFE_MS)
    view.reserve("c", request(), forecast(10_000), NOW_MS + 2 * HALF_LIFE_MS)
    assert least_first(view) == ["c", "a", "b"]


def test_what_came_to_nothing_does_not_count() -> None:
    view = view_of("a", "b")
    view.reserve("b", request(), forecast(10_000), NOW_MS)
    taken = view.reserve("a", request(), forecast(80_000), NOW_MS)
    assert least_first(view) == ["b", "a"]
    view.give_back(taken)
    assert least_first(view) == ["a", "b"]
    assert work_s(view, "a") == pytest.approx(0.0, abs=0.01)  # pyright: ignore


def test_an_engine_that_joins_has_had_as_much_as_the_others() -> None:
    view = view_of("a", "b")
    view.reserve("a", request(), forecast(60_000), NOW_MS)
    view.reserve("b", request(), forecast(20_000), NOW_MS)
    view.learn([EngineRow("new", "pool", "", "openai", 64, ("pool",), speed=EngineSpeed(prefill_tps=10_000))])
    view.set_room("new", EngineRoom(64))
    assert work_s(view, "new") == pytest.approx(4.0, rel=0.01)  # pyright: ignore
    view.close("a")
    view.set_room("a", EngineRoom(64))
    assert work_s(view, "a") == pytest.approx(3.0, rel=0.01), "what it had cached is lost, and so is this"  # pyright: ignore


def test_an_answer_that_another_engine_has_read_the_prompt_for_is_no_work() -> None:
    view = view_of("a", "b")
    view.reserve("a", request(stage=Stage.DECODE), forecast(80_000), NOW_MS)
    assert work_s(view, "a") < 0.01
