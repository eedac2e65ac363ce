"""Placements: on which engine, and on which never."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from sagellm_control.scheduler.forecast import UNKNOWN
from sagellm_control.scheduler.open_engines import OpenEngines
from sagellm_control.scheduler.placement import DEFAULT_PLACEMENT, PLACEMENTS, Placement, make_placement
from sagellm_control.scheduler.prefix_index import PrefixIndex
from sagellm_control.scheduler.proposal import PREFIX_PLACEMENTS
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import Arrival


@pytest.fixture(params=list(PLACEMENTS))
def placement(request: pytest.FixtureRequest) -> Placement:
    """Every placement."""
    return make_placement(request.param)


def engines(free: dict[str, int], *, slots: int = 4, lora_on: tuple[str, ...] = ()) -> OpenEngines:
    view = OpenEngines()
    view.learn(EngineRow(e, "pool", "", "openai", slots, ("pool", "lora") if e in lora_on else ("pool",)) for e in free)
    view.refresh(free)
    return view


def asking(model: str = "", excluded: tuple[str, ...] = ()) -> Arrival:
    return Arrival("r", RequestPriority.NORMAL, 0.0, model=model, excluded=excluded)


def choices(placement: Placement, view: OpenEngines, count: int, asked: Arrival | None = None) -> list[str | None]:
    """What a scheduler does: choose, take, choose again."""
    found: list[str | None] = []
    for _ in range(count):
        engine = placement.choose(asked or asking(), UNKNOWN, view, 0.0)
        if engine is not None:
            view.take(engine)
        found.append(engine)
    return found


def test_round_robin_takes_turns() -> None:
    placement = make_placement("round_robin")
    assert choices(placement, engines({"a": 4, "b": 4, "c": 4}), 7) == ["a", "b", "c", "a", "b", "c", "a"]


def test_round_robin_skips_what_is_full_and_fills_all() -> None:
    found = choices(make_placement("round_robin"), engines({"a": 1, "b": 3, "c": 0}), 5)
    assert found == ["a", "b", "b", "b", None]


def test_least_loaded_takes_the_emptiest() -> None:
    found = choices(make_placement("least_loaded"), engines({"a": 1, "b": 4, "c": 2}), 8)
    assert found[:3] == ["b", "b", "c"] or found[:3] == ["b", "c", "b"]
    assert Counter(found) == {"a": 1, "b": 4, "c": 2, None: 1}


def test_least_loaded_counts_requests_and_not_free_places() -> None:
    view = OpenEngines()
    view.learn([EngineRow("big", "p", "", "", 100, ()), EngineRow("small", "p", "", "", 2, ())])
    view.refresh({"big": 90, "small": 2})
    assert make_placement("least_loaded").choose(asking(), UNKNOWN, view, 0.0) == "small"


def test_least_loaded_spreads_over_equals() -> None:
    found = choices(make_placement("least_loaded"), engines({"a": 4, "b": 4, "c": 4}), 6)
    assert Counter(found) == {"a": 2, "b": 2, "c": 2}


def test_no_engine(placement: Placement) -> None:
    assert placement.choose(asking(), UNKNOWN, OpenEngines(), 0.0) is None
    assert placement.choose(asking(), UNKNOWN, engines({"a": 0}), 0.0) is None


def test_never_more_than_there_is_room(placement: Placement) -> None:
    found = choices(placement, engines({f"e{n}": n for n in range(5)}), 12)
    assert Counter(found) == {"e1": 1, "e2": 2, "e3": 3, "e4": 4, None: 2}


def test_only_engines_that_serve_the_model(placement: Placement) -> None:
    view = engines({"a": 4, "b": 1, "c": 4}, lora_on=("b",))
    assert choices(placement, view, 2, asking("lora")) == ["b", None]
    assert placement.choose(asking("unknown"), UNKNOWN, view, 0.0) is None
    assert placement.choose(asking(), UNKNOWN, view, 0.0) in ("a", "c")


def test_not_where_it_failed(placement: Placement) -> None:
    view = engines({"a": 4, "b": 1})
    assert choices(placement, view, 2, asking(excluded=("a",))) == ["b", None]


@pytest.mark.parametrize(("passed_ms", "expected"), [(0, None), (4999, None), (5000, "a"), (-5000, "a")])
def test_not_where_it_failed_for_a_bounded_time(placement: Placement, passed_ms: float, expected: str | None) -> None:
    """Also on a clock that was set back."""
    view, asked = engines({"a": 4, "b": 0}), asking(excluded=("b", "a"))
    asked.excluded_ms = 1_000_000.0
    view.open_due(1_000_000.0 + passed_ms)
    assert placement.choose(asked, UNKNOWN, view, 1_000_000.0 + passed_ms) == expected


@pytest.mark.parametrize(
    ("ready", "lora_on", "asked", "expected"),
    [
        # It failed on every engine there is: any may try again, but for the last one, unless it is alone.
        ({"a": 1}, (), asking(excluded=("a",)), "a"),
        ({"a": 4, "b": 8}, (), asking(excluded=("a", "b")), "a"),
        ({"a": 0, "b": 1}, (), asking(excluded=("a", "b")), None),
        # One that failed it long ago may have recovered: better than waiting for one that has not.
        ({"a": 1, "b": 8, "c": 0}, (), asking(excluded=("a", "b")), "a"),
        ({"a": 8, "b": 8, "c": 1}, (), asking(excluded=("a", "b")), "c"),
        # The other has no room now, but will have.
        ({"a": 1, "b": 0}, (), asking(excluded=("a",)), None),
        # The other does not serve the model and never will: waiting for it would be waiting for ever.
        ({"a": 1, "b": 1}, ("a",), asking("lora", ("a",)), "a"),
    ],
    ids=[
        "the only one",
        "all of them",
        "all of them, and the last has room",
        "one before the last",
        "one that has not",
        "one that is full",
        "the only one with the model",
    ],
)
def test_where_it_failed_when_there_is_no_other(
    placement: Placement, ready: dict[str, int], lora_on: tuple[str, ...], asked: Arrival, expected: str | None
) -> None:
    assert placement.choose(asked, UNKNOWN, engines(ready, lora_on=lora_on), 0.0) == expected


class _Asked(PrefixIndex):
    """Remembers whether it was asked."""

    asked = False

    def depth(self, engine: str, prefix: Sequence[str]) -> int:
        self.asked = True
        return super().depth(engine, prefix)

    def holders(self, prefix: Sequence[str], most: int) -> list[tuple[str, int]]:
        self.asked = True
        return super().holders(prefix, most)


def test_who_asks_for_prefixes_is_told_of_those_that_others_have_placed(placement: Placement) -> None:
    index = _Asked()
    view = OpenEngines(index)
    view.learn(EngineRow(name, "pool", "", "openai", 4, ("pool",)) for name in "ab")
    view.refresh({"a": 4, "b": 2})
    placement.choose(Arrival("r", RequestPriority.NORMAL, 0.0, prefix=("x", "y"), session="s"), UNKNOWN, view, 0.0)
    assert index.asked == (placement.name in PREFIX_PLACEMENTS)


def test_placements_are_known_by_their_names() -> None:
    assert {make_placement(name).name for name in PLACEMENTS} == set(PLACEMENTS)
    assert DEFAULT_PLACEMENT == "kv_cost"
    with pytest.raises(ValueError, match=r"unknown placement 'dice'.*round_robin, least_loaded"):
        make_placement("dice")
