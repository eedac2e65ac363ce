"""Room: places, KV tokens and pace, as a scheduler's ledger keeps them."""

from __future__ import annotations

import random

import pytest

from sagellm_control.scheduler.engine_load import EngineRoom
from sagellm_control.scheduler.forecast import UNKNOWN
from sagellm_control.scheduler.open_engines import OpenEngines
from sagellm_control.scheduler.placement import PLACEMENTS, Hold, make_placement
from sagellm_control.wire.engine import EngineRow, EngineSpeed
from sagellm_control.wire.priority import RequestPriority

from .requests import engines, forecast, request


def opens(view: OpenEngines) -> set[str]:
    return set(view.by_turn(request()))


# Pace.


def test_an_engine_closes_by_its_pace_and_opens_by_time() -> None:
    view = engines("a", "b", pace_tps=1000)
    view.reserve("a", request(), forecast(500), 10_000.0)
    assert (opens(view), view.places, view.open) == ({"b"}, 8, 1)
    assert view.next_opening_ms == 10_500.0
    assert view.open_due(10_499.9) == 0
    assert view.open_due(10_500.0) == 1
    assert (opens(view), view.places, view.next_opening_ms) == ({"a", "b"}, 15, None)


def test_an_engine_that_runs_nothing_takes_whatever_the_pace() -> None:
    view = engines("a", pace_tps=1000)
    view.reserve("a", request(), forecast(100_000), 0.0)
    assert opens(view) == set()
    view.set_places("a", 8)
    assert opens(view) == {"a"}


def test_the_pace_is_charged_from_where_it_stood() -> None:
    view = engines("a", pace_tps=1000)
    view.set_room("a", EngineRoom(free=7, paced_until_ms=3000.0))
    assert opens(view) == set()
    view.open_due(3000.0)
    view.reserve("a", request(), forecast(500), 3200.0)
    assert view.next_opening_ms == 3700.0


def test_what_is_cached_is_not_charged() -> None:
    view = engines("a", pace_tps=1000)
    prefix = ("p1", "p2", "p3", "p4")
    view.prefixes.note("a", prefix[:3])
    taken = view.reserve("a", request(prefix=prefix), forecast(1000), 0.0)
    assert taken.uncached_tokens == 250
    assert view.reserve("a", request(prefix=prefix), forecast(1000), 0.0).uncached_tokens == 1


def test_what_was_not_used_is_given_back_in_full() -> None:
    view = engines("a", pace_tps=1000, kv_tokens=10_000)
    view.set_room("a", EngineRoom(free=5, kv_held=3000, paced_until_ms=0.0))
    load = view.load_of("a")
    assert load is not None
    taken = view.reserve("a", request(), forecast(1000), 100.0)
    assert (load.kv_held, load.paced_until_ms, load.free) == (4100, 1100.0, 4)
    view.give_back(taken)
    assert (load.kv_held, load.paced_until_ms, load.free) == (3000, 100.0, 5)
    assert opens(view) == {"a"}


def test_without_a_pace_nothing_closes() -> None:
    view = engines("a")
    view.reserve("a", request(), forecast(10**6), 0.0)
    assert opens(view) == {"a"}
    assert view.next_opening_ms is None


def test_a_pace_that_is_learned_later_holds() -> None:
    view = engines("a", slots=4)
    view.take("a")
    view.learn([EngineRow("a", "pool", "", "openai", 4, ("pool",), pace_tps=1000)])
    view.set_room("a", EngineRoom(free=3, paced_until_ms=500.0))
    assert opens(view) == set()
    view.learn([EngineRow("a", "pool", "", "openai", 4, ("pool",), pace_tps=0)])
    assert opens(view) == {"a"}


def test_a_clock_that_was_ahead_opens_nothing_for_longer() -> None:
    view = engines("a", pace_tps=1000)
    view.open_due(90_000.0)
    view.open_due(1000.0)
    view.set_room("a", EngineRoom(free=7, paced_until_ms=3000.0))
    assert (opens(view), view.next_opening_ms) == (set(), 3000.0)


# KV tokens.


@pytest.mark.parametrize("name", PLACEMENTS)
def test_no_placement_goes_over_a_kv_budget(name: str) -> None:
    view = engines(*(f"e{n}" for n in range(40)), kv_tokens=10_000)
    placement, dice, refused = make_placement(name), random.Random(1), 0
    for number in range(1000):
        what = forecast(dice.choice((500, 2000, 6000)), 100.0)
        asked = request(f"r{number}", session=f"s{number % 7}", prefix=(f"p{number % 5}", f"q{number}"))
        choice = placement.choose(asked, what, view, 1e9)
        if isinstance(choice, Hold):
            choice = placement.choose(asked, what, view, 2e9)
        if not isinstance(choice, str):
            # Right, if it fits nowhere.
            assert not any(load.open and load.fits(what) for load in view.loads())
            refused += 1
            continue
        view.reserve(choice, asked, what, 1e9)
        assert all(load.kv_held <= 10_000 for load in view.loads())
    assert refused > 0


def test_the_one_engine_that_has_room_is_found_among_very_many() -> None:
    names = [f"e{n}" for n in range(500)]
    view = engines(*names, slots=8, kv_tokens=10_000)
    view.refresh({name: EngineRoom(free=4, kv_held=9900 if name != "e321" else 5000) for name in names})
    assert next(view.by_load(request(), forecast(3000))) == "e321"
    assert next(view.by_load(request(), forecast(6000)), None) is None


def test_one_that_is_larger_than_any_cache_gets_an_engine_of_its_own() -> None:
    view = engines("a", "b", kv_tokens=1000)
    view.set_room("a", EngineRoom(free=7, kv_held=10))
    assert list(view.by_load(request(), forecast(5000))) == ["b"]
    assert view.reserve("b", request(), forecast(5000), 0.0).kv_tokens == 1000


def test_an_unknown_budget_bounds_nothing() -> None:
    view = engines("a")
    assert list(view.by_load(request(), forecast(10**9))) == ["a"]


def test_room_for_a_large_one_is_kept() -> None:
    view = engines("a", "b", kv_tokens=10_000)
    view.refresh({"a": EngineRoom(4, 8000), "b": EngineRoom(4, 6000)})
    large = request("large")
    engine = view.roomiest(large)
    assert engine == "b"
    view.keep_free(engine, "large", until_ms=60_000.0)
    assert opens(view) == {"a"}
    assert view.kept(large, forecast(7000)) is None
    view.set_room("b", EngineRoom(6, 1000))
    assert opens(view) == {"a"}, "what came free is not for others"
    assert view.kept(large, forecast(7000)) == "b"
    view.reserve("b", large, forecast(7000), 0.0)
    assert opens(view) == {"a", "b"}


def test_room_is_not_kept_for_ever() -> None:
    view = engines("a", kv_tokens=10_000)
    view.keep_free("a", "cancelled", until_ms=5000.0)
    view.open_due(4999.0)
    assert opens(view) == set()
    assert view.next_opening_ms == 5000.0
    view.open_due(5000.0)
    assert opens(view) == {"a"}


def test_held_tokens_shrink_with_the_requests_until_they_are_told() -> None:
    view = engines("a", kv_tokens=10_000)
    view.set_room("a", EngineRoom(free=4, kv_held=8000))
    view.set_places("a", 6)
    load = view.load_of("a")
    assert load is not None
    assert load.kv_held == 4000


# Kinds of request.


def test_an_engine_may_take_some_kinds_only() -> None:
    view = OpenEngines()
    view.learn(
        [
            EngineRow("chat", "p", "", "vllm", 4, ("m", "lora"), kinds=("chat", "completion")),
            EngineRow("embed", "p", "", "vllm", 4, ("m",), kinds=("embedding",)),
            EngineRow("all", "p", "", "vllm", 4, ("m",)),
        ]
    )
    view.refresh({"chat": 4, "embed": 4, "all": 0})
    assert list(view.by_load(request(kind="embedding"))) == ["embed"]
    assert list(view.by_load(request(kind="chat"))) == ["chat"]
    assert list(view.by_load(request(kind="chat", model="lora"))) == ["chat"]
    assert list(view.by_load(request(kind="embedding", model="lora"))) == []
    view.set_places("all", 1)
    assert set(view.by_load(request(kind="embedding"))) == {"embed", "all"}
    assert not view.can_take("chat", request(kind="embedding"))
    assert view.answers_to("lora")


# The books.


def test_the_books_agree_after_anything() -> None:
    dice = random.Random(7)
    view = engines("a", "b", "c", slots=4, kv_tokens=20_000, pace_tps=5000)
    taken = []
    now = 0.0
    for step in range(5000):
        now += dice.expovariate(1 / 100)
        engine = dice.choice("abc")
        view.open_due(now)
        match dice.randrange(8):
            case 0 | 1 | 2 if view.can_take(engine, request(), forecast()):
                taken.append(view.reserve(engine, request(), forecast(), now))
            case 3 if taken:
                view.give_back(taken.pop(dice.randrange(len(taken))))
            case 4:
                view.set_places(engine, dice.randrange(-1, 6))
            case 5:
                view.set_room(engine, EngineRoom(dice.randrange(5), dice.randrange(20_000), now + dice.randrange(999)))
            case 6 if step % 5 == 0:
                view.close(engine)
            case _:
                slots, speed = dice.choice((2, 4)), EngineSpeed(dice.choice((2000.0, 9000.0)))
                view.learn([EngineRow(engine, "pool", "", "", slots, ("pool",), kv_tokens=20_000, speed=speed)])
        loads = list(view.loads())
        assert view.places == sum(load.free for load in loads if load.open)
        assert view.requests == sum(load.requests for load in loads)
        assert view.open == sum(load.open for load in loads) == len(opens(view))
        assert {load.row.engine_id for load in loads if load.open} == opens(view) == set(view.by_load(request()))
        assert all(load.free > 0 for load in loads if load.open)
        closed = [load for load in loads if load.free > 0 and not load.open]
        assert (view.next_opening_ms is not None) == bool(closed)
        assert view.usual_tps == pytest.approx(sum(x.row.speed.prefill_tps for x in loads) / max(1, len(loads)))


def test_the_least_loaded_by_speed_where_speeds_differ() -> None:
    view = OpenEngines()
    view.learn(
        EngineRow(name, "p", "", "", 64, (), speed=EngineSpeed(prefill_tps=tps))
        for name, tps in (("slow", 2000.0), ("fast", 20_000.0))
    )
    view.refresh({"slow": 64, "fast": 64})
    assert view.speeds_differ
    placed = []
    for number in range(22):
        placement = make_placement("least_loaded")
        engine = placement.choose(request(f"r{number}", priority=RequestPriority.LOW), forecast(), view, 0.0)
        assert isinstance(engine, str)
        view.reserve(engine, request(), forecast(), 0.0)
        placed.append(engine)
    assert 18 <= placed.count("fast") <= 21
    assert not engines("a", "b").speeds_differ
    assert UNKNOWN.kv_tokens == 0


def test_a_prompt_that_was_not_handed_over_is_not_cached() -> None:
    view = engines("a")
    what = request("r", prompt_tokens=5000, prefix=tuple("abcdefghij"))
    for _ in range(2):
        taken = view.reserve("a", what, forecast(5000), 0.0)
        assert taken.uncached_tokens == 5000
        view.give_back(taken)
    view.reserve("a", what, forecast(5000), 0.0)
    assert view.uncached_tokens("a", what, forecast(5000)) == 1
