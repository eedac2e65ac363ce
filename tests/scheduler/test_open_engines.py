"""OpenEngines: a scheduler's snapshot of the engines, and what it costs to ask it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType

import pytest

from sagellm_control.scheduler.forecast import Forecast
from sagellm_control.scheduler.open_engines import OpenEngines
from sagellm_control.scheduler.placement import PLACEMENTS, make_placement
from sagellm_control.wire.engine import EngineRow, EngineSpeed
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import Arrival

ANYBODY = Arrival("anybody", RequestPriority.NORMAL, 0.0)


def row(engine: str, slots: int = 4, models: tuple[str, ...] = ()) -> EngineRow:
    return EngineRow(engine, "pool", "", "openai", slots, models)


def view(**free: int) -> OpenEngines:
    engines = OpenEngines()
    engines.learn(row(engine) for engine in free)
    engines.refresh(free)
    return engines


def counts(engines: OpenEngines) -> tuple[int, int, int]:
    return engines.ready, engines.open, engines.places


def test_what_is_ready_and_what_is_open() -> None:
    engines = view(a=0, b=2, c=4)
    assert counts(engines) == (3, 2, 6)
    assert list(engines.by_load(ANYBODY)) == ["c", "b"]
    assert set(engines.by_turn(ANYBODY)) == {"b", "c"}


def test_taking_a_place() -> None:
    engines = view(a=2, b=1)
    engines.take("b")
    assert counts(engines) == (2, 1, 2)
    engines.take("a")
    engines.take("a")
    assert counts(engines) == (2, 0, 0)
    engines.set_places("a", 3)
    assert counts(engines) == (2, 1, 3)


def test_a_refresh_closes_what_is_not_there_any_more() -> None:
    engines = view(a=2, b=1)
    engines.refresh({"b": 3})
    assert counts(engines) == (1, 1, 3)
    assert list(engines.by_load(ANYBODY)) == ["b"]


def test_an_engine_whose_row_is_not_known_is_left_out() -> None:
    engines = view(a=1)
    engines.set_places("new", 9)
    assert counts(engines) == (1, 1, 1)
    assert "new" not in engines.known
    engines.learn([row("new")])
    engines.refresh({"a": 1, "new": 4})
    assert "new" in engines.known
    assert counts(engines) == (2, 2, 5)


def test_a_row_that_changed_is_sorted_in_again() -> None:
    engines = view(a=4, b=3)
    assert list(engines.by_load(ANYBODY)) == ["a", "b"]
    engines.learn([row("a", slots=8)])
    assert list(engines.by_load(ANYBODY)) == ["b", "a"]
    assert counts(engines) == (2, 2, 7)
    engines.close("a")
    assert list(engines.by_load(ANYBODY)) == ["b"]


def test_more_free_than_slots_is_no_load() -> None:
    engines = OpenEngines()
    engines.learn([row("a", slots=1)])
    engines.refresh({"a": 5})
    assert list(engines.by_load(ANYBODY)) == ["a"]


def test_closing_what_is_not_there() -> None:
    engines = view(a=1)
    engines.close("b")
    assert counts(engines) == (1, 1, 1)


def test_an_adapter_narrows_the_choice() -> None:
    engines = OpenEngines()
    engines.learn([row("a", models=("base", "lora")), row("b", models=("base",))])
    engines.refresh({"a": 1, "b": 2})
    asked = Arrival("r", RequestPriority.NORMAL, 0.0, model="lora")
    assert list(engines.by_load(asked)) == ["a"]
    engines.take("a")
    assert list(engines.by_load(asked)) == []
    engines.learn([row("b", models=("base", "lora"))])
    assert list(engines.by_load(asked)) == ["b"]
    engines.close("b")
    assert list(engines.by_turn(asked)) == []
    assert list(engines.by_load(Arrival("r", RequestPriority.NORMAL, 0.0, model="other"))) == []


def test_a_place_that_was_not_used_is_given_back() -> None:
    engines = view(a=1)
    engines.take("a")
    engines.give_back("a")
    assert counts(engines) == (1, 1, 1)
    engines.close("a")
    engines.give_back("a")
    assert counts(engines) == (0, 0, 0)


# What it costs. Counted in calls (of functions and of generators), which says the same on any machine.


def calls_of(work: Callable[[], object]) -> int:
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    gc.collect()
    gc.disable()  # what other tests have left would be ended, and counted, in the middle
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return count


PREFIX = ("p1", "p2", "p3")
SPEED = EngineSpeed(prefill_tps=10_000)
FORECAST = Forecast(1500, 300.0, 150.0, 6000.0)


def crowd(size: int) -> OpenEngines:
    """Engines with room; only the last one that would be asked serves the model "rare"."""
    engines = OpenEngines()
    names = [f"e{n}" for n in range(size)]
    engines.learn(
        EngineRow(
            name,
            "pool",
            "",
            "openai",
            4,
            ("base", "rare") if name == names[-1] else ("base",),
            kv_tokens=50_000,
            speed=SPEED,
            pace_tps=5000,
        )
        for name in names
    )
    engines.refresh(dict.fromkeys(names, 2))
    for name in names:
        engines.prefixes.note(name, PREFIX[:2])
    for model in ("", "rare", "unknown"):
        # An index and its shelves are made when they are asked for first; that once, all engines are looked at.
        for placement in PLACEMENTS:
            make_placement(placement).choose(asking(model), FORECAST, engines, 0.0)
    return engines


def asking(model: str = "", excluded: tuple[str, ...] = ()) -> Arrival:
    return Arrival("r", RequestPriority.NORMAL, 0.0, model=model, excluded=excluded, session="s", prefix=PREFIX)


def place(name: str, model: str = "", excluded: tuple[str, ...] = ()) -> Callable[[OpenEngines], object]:
    placement = make_placement(name)
    request = asking(model, excluded)

    def choose_and_reserve(engines: OpenEngines) -> None:
        engine = placement.choose(request, FORECAST, engines, 0.0)
        if isinstance(engine, str):
            engines.reserve(engine, request, FORECAST, 0.0)

    return choose_and_reserve


QUESTIONS: dict[str, Callable[[OpenEngines], object]] = {
    "places": lambda engines: engines.places,
    "open": lambda engines: engines.open,
    "a place came free": lambda engines: engines.set_places("e0", 3),
    "an engine closed": lambda engines: engines.close("e0"),
    "engines are due": lambda engines: engines.open_due(1.0),
    "the next opening": lambda engines: engines.next_opening_ms,
} | {
    f"{name}: {case}": question
    for name in PLACEMENTS
    for case, question in {
        "any engine": place(name),
        "not the first": place(name, excluded=("e0",)),
        "a model that one serves": place(name, model="rare"),
        "a model that none serves": place(name, model="unknown"),
    }.items()
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_cost_does_not_grow_with_the_engines(question: str) -> None:
    ask = QUESTIONS[question]
    # A dozen: more than any placement compares.
    few, many = crowd(12), crowd(500)
    assert calls_of(lambda: ask(many)) <= 1.5 * calls_of(lambda: ask(few)) + 5
