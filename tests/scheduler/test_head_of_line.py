"""What becomes of those at the head of the line, decided by the object that scheduler and simulator share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from sagellm_control.scheduler.engine_load import EngineRoom
from sagellm_control.scheduler.forecast import Forecast
from sagellm_control.scheduler.head_of_line import KEPT_FREE_MS, Action, HeadOfLine, Look
from sagellm_control.scheduler.lateness import LATE_HANDICAP_MS, Lateness
from sagellm_control.scheduler.open_engines import EXCLUDED_FOR_MS, OpenEngines
from sagellm_control.scheduler.order import make_order
from sagellm_control.scheduler.order.fair import REACH_MS
from sagellm_control.scheduler.overload import OverloadMode
from sagellm_control.scheduler.placement import Hold, make_placement
from sagellm_control.scheduler.policy_settings import PolicySettings, WhenLate
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import Arrival

from .line import Policies, actions, candidate, placed_on
from .requests import NOW_MS, engines

PROMPT = tuple(f"block{n}" for n in range(10))


@dataclass
class HoldOut:
    """A placement that waits for an engine, whatever is open."""

    engine: str = "wanted"
    until_ms: float = NOW_MS + 60_000
    asked: int = 0
    name: str = "hold out"

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | Hold | None:
        self.asked += 1
        if engines.can_take(self.engine, request, forecast):
            return self.engine
        return Hold(self.until_ms, self.engine) if now_ms < self.until_ms else next(engines.by_load(request), None)


# Late.


def test_a_cached_prompt_is_not_late() -> None:
    view = engines("a", "b")
    line = HeadOfLine(Policies(), view)
    asked = candidate(tokens=10_000, slo_ms=500, prefix=PROMPT)  # a second of prefill
    assert line.decide(asked, Look(), NOW_MS).action is Action.STEP_BACK
    view.prefixes.note("b", PROMPT[:8])
    assert line.decide(asked, Look(), NOW_MS).action is Action.PLACE


def test_since_when_it_is_late_depends_on_what_is_cached() -> None:
    view = engines("a")
    view.prefixes.note("a", PROMPT[:8])
    asked = candidate(tokens=10_000, slo_ms=500, prefix=PROMPT)
    late = HeadOfLine(Policies(), view).decide(asked, Look(), NOW_MS + 400)
    assert late.action is Action.STEP_BACK
    assert (late.since_ms, late.rank) == (pytest.approx(NOW_MS + 300), NOW_MS + LATE_HANDICAP_MS)


def test_who_asks_for_it_is_refused_in_place_of_stepping_back() -> None:
    line = HeadOfLine(Policies(), engines("a"))
    assert line.decide(candidate(tokens=10_000, slo_ms=500, reject_late=True), Look(), NOW_MS).action is Action.REFUSE
    line = HeadOfLine(Policies(lateness=Lateness(WhenLate.SERVE)), engines("a"))
    assert line.decide(candidate(tokens=10_000, slo_ms=500), Look(), NOW_MS).action is Action.PLACE


def test_who_has_waited_for_too_long_in_an_overloaded_pool_is_shed() -> None:
    settings = PolicySettings.model_validate({"overload": "codel"})
    overload = OverloadMode(settings)
    overload.since_ms = {RequestPriority.NORMAL: NOW_MS}
    line = HeadOfLine(Policies(overload=overload), engines("a"))
    target_ms = settings.overload_target_ms
    assert line.decide(candidate("a"), Look(), NOW_MS + target_ms).action is Action.PLACE
    shed = line.decide(candidate("b"), Look(), NOW_MS + target_ms + 1)
    assert (shed.action, shed.since_ms) == (Action.SHED, NOW_MS + target_ms)


def test_a_late_one_leaves_what_is_free_to_those_that_hold_out() -> None:
    view = engines("a", "b", "wanted", free={"wanted": 0})
    policies = Policies(placement=HoldOut())
    line, look = HeadOfLine(policies, view), Look()
    assert actions(line, look, [candidate("1"), candidate("2")]) == [Action.PASS, Action.PASS]
    policies.placement = make_placement("least_loaded")
    assert actions(line, look, [candidate("late", late=True)]) == [Action.PASS]
    assert (look.holding.total(), look.stood_back, look.next_hold_ms) == (2, 1, NOW_MS + 60_000)
    # In time is who has not stepped back.
    assert actions(line, look, [candidate("3")]) == [Action.PLACE]


def test_a_late_one_takes_what_those_that_hold_out_leave() -> None:
    view = engines("a", "b", "wanted", free={"wanted": 0})
    policies = Policies(placement=HoldOut())
    line, look = HeadOfLine(policies, view), Look()
    assert actions(line, look, [candidate("1"), candidate("late-1", late=True)]) == [Action.PASS, Action.PASS]
    assert look.holding.total() == 1, "a late one holds out behind the others"
    policies.placement = make_placement("least_loaded")
    assert actions(line, look, [candidate("late-2", late=True)]) == [Action.PLACE]


def test_a_late_one_waits_for_nobody_who_cannot_use_its_engine() -> None:
    view = engines("a", "wanted", free={"wanted": 0})
    rows = [EngineRow(name, "pool", "", "", 4, ("pool", "lora")) for name in ("b", "c")]
    view.learn(rows)
    view.refresh({"a": 4, "wanted": 0, "b": 4, "c": 4})
    policies = Policies(placement=HoldOut())
    line, look = HeadOfLine(policies, view), Look()
    assert actions(line, look, [candidate("1")]) == [Action.PASS]
    policies.placement = make_placement("least_loaded")
    assert placed_on(line.decide(candidate("late", late=True, model="lora"), look, NOW_MS)) in ("b", "c")


def test_a_late_one_leaves_nothing_to_those_that_may_not_use_its_engine() -> None:
    view = engines("wanted", "a", free={"wanted": 0})
    view.learn([EngineRow("tuned", "pool", "", "", 4, ("lora",))])
    view.refresh({"wanted": 0, "a": 1, "tuned": 1})
    policies = Policies(placement=HoldOut())
    line, look = HeadOfLine(policies, view), Look()
    asked = [candidate(str(number), model="pool") for number in range(3)]
    assert actions(line, look, asked) == [Action.PASS] * 3
    policies.placement = make_placement("least_loaded")
    late = [candidate("late", late=True, model="pool"), candidate("late-tuned", late=True, model="lora")]
    assert actions(line, look, late) == [Action.PASS, Action.PLACE]


# Holding out.


def test_who_holds_out_is_not_asked_again_before_its_time_or_its_engine_comes() -> None:
    view = engines("a", "wanted", free={"wanted": 0})
    placement = HoldOut()
    line, one = HeadOfLine(Policies(placement=placement), view), candidate()
    for _ in range(3):
        look = Look()
        assert actions(line, look, [one]) == [Action.PASS]
        assert (look.holding.total(), look.next_hold_ms) == (1, NOW_MS + 60_000)
    assert placement.asked == 1
    view.set_places("wanted", 1)
    assert placed_on(line.decide(one, Look(), NOW_MS + 1)) == "wanted"


def test_who_has_held_out_takes_what_there_is() -> None:
    view = engines("a", "wanted", free={"wanted": 0})
    line, one = HeadOfLine(Policies(placement=HoldOut()), view), candidate()
    assert actions(line, Look(), [one], NOW_MS) == [Action.PASS]
    assert actions(line, Look(), [one], NOW_MS + 59_999) == [Action.PASS]
    assert placed_on(line.decide(one, Look(), NOW_MS + 60_000)) == "a"


def test_who_holds_out_is_not_blocked() -> None:
    view = engines("a", "wanted", free={"wanted": 0})
    line = HeadOfLine(Policies(placement=HoldOut(until_ms=NOW_MS + 600_000)), view)
    far_behind = candidate("far", behind_ms=100_000)
    for after_ms in (0, 50_000, 100_000):
        look = Look()
        assert actions(line, look, [candidate("1"), far_behind], NOW_MS + after_ms) == [Action.PASS, Action.PASS]
        assert look.blocked is None
    assert not view.keeps_any
    assert view.open == 1


def test_under_fair_who_is_late_keeps_its_place_and_holds_out_for_nothing() -> None:
    view = engines("a", "wanted", free={"wanted": 0})
    line = HeadOfLine(Policies(order=make_order("fair"), placement=HoldOut()), view)
    assert placed_on(line.decide(candidate(tokens=10_000, slo_ms=500), Look(), NOW_MS)) == "a"
    refuses = HeadOfLine(Policies(order=make_order("fair")), view)
    late = candidate(tokens=10_000, slo_ms=500, reject_late=True)
    assert refuses.decide(late, Look(), NOW_MS).action is Action.REFUSE


@pytest.mark.parametrize(("policy", "holds_on"), [("fair", False), ("fifo", True), ("priority", True)])
def test_under_fair_who_is_passed_by_what_is_far_behind_holds_out_no_more(policy: str, holds_on: bool) -> None:
    view = engines("a", "wanted", free={"wanted": 0})
    policies = Policies(order=make_order(policy), placement=HoldOut())
    line, one = HeadOfLine(policies, view), candidate("1")
    least_loaded = make_placement("least_loaded")
    for behind_ms, passed_too_far in ((REACH_MS, False), (REACH_MS + 1, True)):
        look = Look()
        assert actions(line, look, [one]) == [Action.PASS]
        policies.placement = least_loaded
        assert actions(line, look, [candidate("next", behind_ms=behind_ms)]) == [Action.PLACE]
        policies.placement = HoldOut()
        holds = line.decide(one, Look(), NOW_MS).action is Action.PASS
        assert holds == (holds_on or not passed_too_far)


# Too large for what is free.


def test_who_waits_for_others_than_the_one_that_failed_it_says_until_when() -> None:
    view = engines("a", "b", free={"b": 0})
    line, look = HeadOfLine(Policies(), view), Look()
    failed, plain = candidate("failed", excluded=("a",), excluded_ms=NOW_MS), candidate("plain", model="nobody's")
    view.open_due(NOW_MS)
    assert actions(line, look, [plain]) == [Action.PASS]
    assert look.next_hold_ms == math.inf
    assert actions(line, look, [failed]) == [Action.PASS]
    assert look.next_hold_ms == NOW_MS + EXCLUDED_FOR_MS
    view.open_due(look.next_hold_ms)
    assert placed_on(line.decide(failed, Look(), look.next_hold_ms)) == "a"


def crowded(*names: str) -> OpenEngines:
    """Engines with 3,000 KV tokens left each, of 10,000."""
    view = engines(*names, kv_tokens=10_000, pace_tps=1000.0)
    view.refresh({name: EngineRoom(6, 7000, 0.0) for name in names})
    return view


def test_no_room_counts_after_the_orders_patience_only() -> None:
    view = crowded("a", "b")
    line = HeadOfLine(Policies(), view)
    patience_ms = make_order("fifo").patience_ms
    large, small = candidate("large", tokens=8000), candidate("small", tokens=10, behind_ms=patience_ms + 1)
    for after_ms in (0.0, patience_ms):
        look = Look()
        assert actions(line, look, [large], NOW_MS + after_ms) == [Action.PASS]
        assert (look.blocked, look.in_vain) == (None, 1)
    look = Look()
    now_ms = NOW_MS + patience_ms + 1
    assert actions(line, look, [large, small], now_ms) == [Action.PASS, Action.PLACE]
    assert look.blocked is large
    kept = view.kept_for("large")
    assert kept is not None
    # The others go on, and the one that is kept is for the large one alone.
    view.open_due(now_ms + 100)
    assert placed_on(line.decide(candidate("next", tokens=10, behind_ms=9000), look, now_ms + 100)) != kept
    view.set_room(kept, EngineRoom(8, 0, 0.0))
    assert placed_on(line.decide(large, Look(), now_ms + 200)) == kept
    assert not view.keeps_any


def test_an_engine_that_its_pace_has_closed_may_have_the_room() -> None:
    view = crowded("full", "paced")
    view.set_room("paced", EngineRoom(6, 0, NOW_MS + 3000))
    line, large = HeadOfLine(Policies(), view), candidate("large", tokens=8000)
    others = [candidate(f"small-{n}", tokens=10, behind_ms=100_000 + n) for n in range(3)]
    assert actions(line, Look(), [large, *others]) == [Action.PASS, Action.PLACE, Action.STOP, Action.STOP]
    assert not view.keeps_any
    view.open_due(NOW_MS + 3000)
    assert placed_on(line.decide(large, Look(), NOW_MS + 3000)) == "paced"


def test_those_little_behind_pass_a_blocked_one() -> None:
    view = crowded("a", "b")
    line, patience_ms = HeadOfLine(Policies(), view), make_order("fifo").patience_ms
    large, little_behind = candidate("large", tokens=8000), candidate("small", tokens=10, behind_ms=patience_ms)
    actions(line, Look(), [large])
    look = Look()
    assert actions(line, look, [large, little_behind], NOW_MS + 2 * patience_ms) == [Action.PASS, Action.PLACE]
    assert look.blocked is large
    assert not view.keeps_any


def test_a_model_that_no_engine_serves_blocks_nobody() -> None:
    view = engines("a")
    line = HeadOfLine(Policies(), view)
    strange = candidate("strange", model="unknown")
    for after_ms in (0.0, 1e6):
        look = Look()
        assert actions(line, look, [strange], NOW_MS + after_ms) == [Action.PASS]
        assert look.blocked is None


def test_what_is_kept_is_let_go_with_the_request() -> None:
    for late in (WhenLate.STEP_BACK, WhenLate.REFUSE):
        view = crowded("a", "b")
        view.keep_free("a", "large", NOW_MS + KEPT_FREE_MS)
        line = HeadOfLine(Policies(lateness=Lateness(late)), view)
        line.decide(candidate("large", tokens=8000, slo_ms=100), Look(), NOW_MS)
        assert not view.keeps_any


def test_nothing_open_ends_the_look_but_for_whom_an_engine_is_kept() -> None:
    view = engines("a", "b", free={"a": 0, "b": 0})
    line = HeadOfLine(Policies(), view)
    assert actions(line, Look(), [candidate()]) == [Action.STOP]
    view.keep_free("a", "large", NOW_MS + KEPT_FREE_MS)
    view.set_places("a", 1)
    assert actions(line, Look(), [candidate("other"), candidate("large")]) == [Action.PASS, Action.PLACE]


def test_what_an_engine_had_waits_for_another_try_however_late() -> None:
    """Its client may have half of the answer."""
    overload = OverloadMode(PolicySettings.model_validate({"overload": "codel"}))
    overload.since_ms = {RequestPriority.NORMAL: NOW_MS}
    line = HeadOfLine(Policies(overload=overload), engines("a"))
    for rejects in (True, False):
        one = replace(candidate(tokens=10_000, slo_ms=500, reject_late=rejects), tried=True)
        assert line.decide(one, Look(), NOW_MS + 1e6).action is Action.PLACE
