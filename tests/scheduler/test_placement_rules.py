"""What each placement goes by."""

from __future__ import annotations

from collections import Counter

import pytest

from sagellm_control.scheduler.engine_load import EngineRoom
from sagellm_control.scheduler.open_engines import OpenEngines
from sagellm_control.scheduler.placement import Hold, make_placement
from sagellm_control.scheduler.policy_settings import PolicySettings
from sagellm_control.wire.engine import EngineRow, EngineSpeed

from .requests import NOW_MS, PROMPT, affinity_view, engines, forecast, load, request

# Power of two.


def test_power_of_two_takes_the_better_of_two_and_spreads() -> None:
    view, placement = engines(*(f"e{n}" for n in range(20)), slots=64), make_placement("power_of_two")
    for number in range(400):
        engine = placement.choose(request(f"r{number}"), forecast(), view, 0.0)
        assert isinstance(engine, str)
        view.take(engine)
    loads = [each.requests for each in view.loads()]
    assert sum(loads) == 400
    assert max(loads) - min(loads) <= 6


def test_power_of_two_is_the_same_every_time() -> None:
    view = engines(*(f"e{n}" for n in range(20)))
    choices = {make_placement("power_of_two").choose(request("same"), forecast(), view, 0.0) for _ in range(5)}
    assert len(choices) == 1


# Session.


def home_of(view: OpenEngines, session: str = "s") -> str:
    engine = make_placement("session").choose(request(session=session), forecast(), view, 0.0)
    assert isinstance(engine, str)
    return engine


def test_a_session_stays_on_its_engine_for_every_scheduler() -> None:
    view, other = engines("a", "b", "c", "d"), engines("d", "b", "a", "c")
    assert {home_of(view, f"s{n}") for n in range(50)} == {"a", "b", "c", "d"}
    assert [home_of(view, f"s{n}") for n in range(50)] == [home_of(other, f"s{n}") for n in range(50)]


def test_a_session_waits_for_its_engine_for_a_bounded_time() -> None:
    view, placement = engines("a", "b", "c"), make_placement("session", PolicySettings(hold_ms=500))
    home = home_of(view)
    view.set_places(home, 0)
    asked = request(session="s")
    assert placement.choose(asked, forecast(), view, NOW_MS) == Hold(NOW_MS + 500)
    assert placement.choose(asked, forecast(), view, NOW_MS + 499) == Hold(NOW_MS + 500)
    other = placement.choose(asked, forecast(), view, NOW_MS + 500)
    assert other in {"a", "b", "c"} - {home}
    view.set_places(home, 1)
    assert placement.choose(asked, forecast(), view, NOW_MS + 501) == home


def test_without_patience_a_session_goes_to_its_second_home_at_once() -> None:
    view, placement = engines("a", "b", "c"), make_placement("session", PolicySettings(hold_ms=0))
    view.set_places(home_of(view), 0)
    assert len({placement.choose(request(f"r{n}", session="s"), forecast(), view, NOW_MS) for n in range(9)}) == 1


def test_nobody_waits_when_nothing_is_open() -> None:
    view = engines("a", "b", free={"a": 0, "b": 0})
    for name in ("session", "prefix_affinity", "kv_cost"):
        assert make_placement(name).choose(request(session="s", prefix=PROMPT), forecast(), view, 0.0) is None


# Consistent hashing.


def test_equal_beginnings_go_to_equal_engines() -> None:
    view, placement = engines(*"abcdefgh", slots=64), make_placement("consistent_hash")
    one, two = ("system", "x"), ("system", "y")
    homes = {key: placement.choose(request(prefix=key), forecast(), view, 0.0) for key in (one, two)}
    assert placement.choose(request("other", prefix=(*one, "z", "zz")), forecast(), view, 0.0) == homes[one]
    assert placement.choose(request("other", prefix=(*two, "z")), forecast(), view, 0.0) == homes[two]


def test_no_engine_gets_more_than_the_bound_over_the_mean() -> None:
    view, placement = engines(*"abcdefgh", slots=64), make_placement("consistent_hash", PolicySettings(bound=1.25))
    for number in range(200):
        engine = placement.choose(request(f"r{number}", prefix=("system", "hot")), forecast(), view, 0.0)
        assert isinstance(engine, str)
        view.take(engine)
        assert max(each.requests for each in view.loads()) <= 1.25 * (number + 1) / 8 + 1


# Prefix affinity.


def test_where_the_prompt_is_cached() -> None:
    placement = make_placement("prefix_affinity")
    assert placement.choose(request(prefix=PROMPT), forecast(), affinity_view(), 0.0) == "warm"
    assert placement.choose(request(prefix=("x", "y")), forecast(), load(affinity_view(), warm=1), 0.0) != "warm"


def test_the_longest_match_wins() -> None:
    view = affinity_view()
    view.prefixes.note("cold", PROMPT)
    assert make_placement("prefix_affinity").choose(request(prefix=PROMPT), forecast(), view, 0.0) == "cold"


@pytest.mark.parametrize(
    ("warm", "cold", "choice"), [(16, 0, "warm"), (17, 0, "cold"), (58, 40, "warm"), (61, 40, "cold")]
)
def test_the_guard(warm: int, cold: int, choice: str) -> None:
    view = load(affinity_view(), warm=warm, cold=cold, other=cold + 1)
    assert make_placement("prefix_affinity").choose(request(prefix=PROMPT), forecast(), view, 0.0) == choice


@pytest.mark.parametrize("name", ["prefix_affinity", "kv_cost"])
def test_it_waits_as_long_as_that_pays(name: str) -> None:
    # 8 of 10 blocks of 10,000 tokens are cached: 0.8 s of prefill at 10,000 tokens/s. Two of three engines are open.
    view = affinity_view(pace_tps=10_000)
    view.set_room("warm", EngineRoom(63, paced_until_ms=NOW_MS + 1150))
    placement = make_placement(name)
    asked = request("waits", prefix=PROMPT)
    assert placement.choose(asked, forecast(10_000), view, NOW_MS) == Hold(NOW_MS + 1150)
    view.set_room("warm", EngineRoom(63, paced_until_ms=NOW_MS + 1250))
    assert placement.choose(request("goes", prefix=PROMPT), forecast(10_000), view, NOW_MS) in ("cold", "other")


@pytest.mark.parametrize("name", ["prefix_affinity", "kv_cost"])
def test_it_does_not_wait_its_objective_away(name: str) -> None:
    view = affinity_view(pace_tps=10_000)
    view.set_room("warm", EngineRoom(63, paced_until_ms=NOW_MS + 500))
    placement = make_placement(name)
    relaxed, hurried = (request(f"{ms}", prefix=PROMPT, slo_ms=ms) for ms in (2100, 1900))
    assert placement.choose(relaxed, forecast(10_000), view, NOW_MS) == Hold(NOW_MS + 500)
    assert placement.choose(hurried, forecast(10_000), view, NOW_MS) in ("cold", "other")


@pytest.mark.parametrize("name", ["prefix_affinity", "kv_cost"])
def test_it_waits_for_a_full_engine_and_not_for_ever(name: str) -> None:
    view = load(affinity_view(), warm=64, cold=50, other=50)
    placement = make_placement(name, PolicySettings(hold_ms=300))
    asked = request(prefix=PROMPT)
    times = [NOW_MS + step for step in range(0, 1000, 50)]
    found = [placement.choose(asked, forecast(10_000), view, now) for now in times]
    held = [isinstance(each, Hold) for each in found]
    assert held == [True] * 6 + [False] * 14
    assert all(each.until_ms <= NOW_MS + 300 for each in found if isinstance(each, Hold))


# KV cost.


def test_kv_cost_weighs_cached_tokens_against_load() -> None:
    view = affinity_view(kv_tokens=10**6)
    view.set_room("warm", EngineRoom(60, kv_held=100_000))
    choices = {
        weight: make_placement("kv_cost", PolicySettings(prefill_weight=1, decode_weight=weight)).choose(
            request(prefix=PROMPT), forecast(10_000), view, 0.0
        )
        for weight in (0.0, 0.05, 1.0)
    }
    # 8,000 tokens are saved; the load costs 0, 5,000 and 100,000.
    assert choices[0.0] == choices[0.05] == "warm"
    assert choices[1.0] in ("cold", "other")


def test_kv_cost_looks_at_prefills_that_are_left() -> None:
    view = engines("a", "b", slots=8)
    view.reserve("a", request("first"), forecast(50_000), NOW_MS)
    view.take("b")
    view.take("b")
    assert make_placement("kv_cost").choose(request(), forecast(), view, NOW_MS) == "b"


# Pack.


def test_pack_fills_one_engine_and_leaves_the_others_free() -> None:
    view, placement = engines("a", "b", "c", slots=64), make_placement("pack", PolicySettings(tpot_slo_ms=60))
    placed: list[str] = []
    for number in range(60):
        engine = placement.choose(request(f"r{number}"), forecast(), view, 0.0)
        assert isinstance(engine, str)
        view.take(engine)
        placed.append(engine)
    # Half of 60 ms for decode steps of 15 + 0.3 n: up to 49 answers.
    assert sorted(Counter(placed).values()) == [11, 49]


def test_pack_keeps_a_requests_own_objective() -> None:
    view = load(engines("a", "b", slots=64), a=20)
    placement = make_placement("pack", PolicySettings(tpot_slo_ms=60))
    assert placement.choose(request(), forecast(), view, 0.0) == "a"
    assert placement.choose(request(tpot_slo_ms=36), forecast(), view, 0.0) == "b"


def test_pack_places_who_cannot_be_in_time_anyway() -> None:
    view = load(engines("a", "b", slots=64), a=60, b=55)
    placement = make_placement("pack", PolicySettings(tpot_slo_ms=40))
    assert placement.choose(request(), forecast(), view, 0.0) == "b"


# Speed.


def test_speed_aware_sends_a_long_prompt_to_a_quick_prefill_and_a_long_answer_to_quick_steps() -> None:
    view = OpenEngines()
    view.learn(
        [
            EngineRow("prefills", "p", "", "", 8, (), speed=EngineSpeed(20_000, 30, 0.3)),
            EngineRow("decodes", "p", "", "", 8, (), speed=EngineSpeed(5_000, 10, 0.3)),
        ]
    )
    view.refresh({"prefills": 8, "decodes": 8})
    placement = make_placement("speed_aware")
    assert placement.choose(request(), forecast(20_000, 10), view, 0.0) == "prefills"
    assert placement.choose(request(), forecast(1000, 500), view, 0.0) == "decodes"
