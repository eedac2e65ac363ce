"""That prefix affinity keeps the engines even, and how long it waits for the one with the prefix."""

from __future__ import annotations

import pytest

from sagellm_control.scheduler.engine_load import EngineRoom
from sagellm_control.scheduler.open_engines import OpenEngines
from sagellm_control.scheduler.placement import Hold, make_placement
from sagellm_control.scheduler.policy_settings import PolicySettings
from sagellm_control.scheduler.recent_work import work_ms
from sagellm_control.wire.engine import EngineSpeed

from .requests import NOW_MS, PROMPT, affinity_view, engines, forecast, load, request


def handed(view: OpenEngines, tokens: dict[str, int], now_ms: float = NOW_MS) -> OpenEngines:
    """Each has been handed one prompt, and has finished it."""
    for engine, prompt_tokens in tokens.items():
        view.reserve(engine, request(f"of {engine}"), forecast(prompt_tokens), now_ms)
        view.set_room(engine, EngineRoom(64))
    return view


def test_a_short_match_does_not_count_if_that_is_wished() -> None:
    view = engines("warm", "cold")
    view.prefixes.note("warm", PROMPT[:3])
    handed(view, {"warm": 1000, "cold": 500})
    for least, choice in ((0.29, "warm"), (0.3, "cold")):
        placement = make_placement("prefix_affinity", PolicySettings(prefix_match=least))
        assert placement.choose(request(prefix=PROMPT), forecast(), view, NOW_MS) == choice


def test_a_new_prompt_goes_where_the_least_was_done_lately() -> None:
    # By requests all are empty, and by turn "other" would be last.
    view = handed(affinity_view(), {"warm": 50_000, "cold": 60_000, "other": 1000})
    placement = make_placement("prefix_affinity")
    assert placement.choose(request(prefix=("new", "one")), forecast(), view, NOW_MS) == "other"
    assert placement.choose(request(prefix=("new", "one")), forecast(), load(view, other=17), NOW_MS) == "warm"


@pytest.mark.parametrize(
    # The other has done 45 s, in which 5 s more do not matter: (work / 50 s - 1) / 4 of the prompt has to be cached.
    ("cached", "warm_s", "choice"),
    [(1, 69, "warm"), (1, 71, "other"), (4, 129, "warm"), (4, 131, "other"), (10, 249, "warm"), (10, 251, "other")],
)
def test_the_more_is_cached_the_more_work_an_engine_may_have_had(cached: int, warm_s: int, choice: str) -> None:
    view = engines("warm", "other", slots=64, speed=EngineSpeed(prefill_tps=10_000))
    view.prefixes.note("warm", PROMPT[:cached])
    handed(view, {"warm": warm_s * 10_000, "other": 450_000})
    assert make_placement("prefix_affinity").choose(request(prefix=PROMPT), forecast(), view, NOW_MS) == choice
    careless = make_placement("prefix_affinity", PolicySettings(balance=0))
    assert careless.choose(request(prefix=PROMPT), forecast(), view, NOW_MS) == "warm"


def test_a_beginning_that_all_share_spreads_over_the_engines() -> None:
    view, placement = (
        engines(*"abcd", slots=64, speed=EngineSpeed(prefill_tps=10_000)),
        make_placement("prefix_affinity"),
    )
    for number in range(400):
        asked = request(f"r{number}", prefix=("system", *(f"{number}.{block}" for block in range(9))))
        engine = placement.choose(asked, forecast(5000), view, NOW_MS)
        assert isinstance(engine, str)
        view.reserve(engine, asked, forecast(5000), NOW_MS)
        view.set_room(engine, EngineRoom(64))
    work = [work_ms(each.recent, NOW_MS) for each in view.loads()]
    assert max(work) <= 1.2 * sum(work) / len(work)


def test_with_an_objective_it_waits_for_half_of_that() -> None:
    # The 0.8 s that it saves alone would not be worth it.
    view, placement = affinity_view(pace_tps=10_000), make_placement("prefix_affinity")
    asked = request("waits", prefix=PROMPT, slo_ms=8000)
    view.set_room("warm", EngineRoom(63, paced_until_ms=NOW_MS + 3900))
    assert placement.choose(asked, forecast(10_000), view, NOW_MS) == Hold(NOW_MS + 3900)
    view.set_room("warm", EngineRoom(63, paced_until_ms=NOW_MS + 4100))
    assert placement.choose(asked, forecast(10_000), view, NOW_MS) in ("cold", "other")


def test_its_patience_ends_with_an_objective_too() -> None:
    view = load(affinity_view(), warm=64, cold=50, other=50)
    placement = make_placement("prefix_affinity", PolicySettings(hold_ms=300))
    asked = request(prefix=PROMPT, slo_ms=60_000)
    held = [isinstance(placement.choose(asked, forecast(10_000), view, NOW_MS + ms), Hold) for ms in (0, 1499, 1500)]
    assert held == [True, True, False]
