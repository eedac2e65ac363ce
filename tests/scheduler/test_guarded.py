"""A policy that raises, or talks nonsense, does not stop a pool."""

from __future__ import annotations

import logging
import math

import pytest

from sagellm_control.scheduler.guarded import GuardedOrder, GuardedPlacement
from sagellm_control.scheduler.order import FifoOrder, make_order, rank_of
from sagellm_control.scheduler.order.base import PATIENCE_MS
from sagellm_control.scheduler.placement import PLACEMENTS, Hold, make_placement

from .requests import engines, forecast, request


class Broken:
    """An order and a placement that do what they are told to do wrong."""

    name = "broken"
    fair = True
    patience_ms = 7.0

    def __init__(self, wrong: object) -> None:
        self.wrong = wrong

    def _fail(self) -> object:
        if isinstance(self.wrong, Exception):
            raise self.wrong
        return self.wrong

    def handicap(self, *_: object) -> float:
        return self._fail()  # type: ignore[return-value]

    charge = haste = handicap

    def flow(self, *_: object) -> str:
        return self._fail()  # type: ignore[return-value]

    def choose(self, *_: object) -> str:
        return self._fail()  # type: ignore[return-value]


@pytest.mark.parametrize("wrong", [RuntimeError("no"), ZeroDivisionError(), float("nan"), float("inf"), "text", None])
def test_an_order_falls_back_to_fifo(wrong: object, caplog: pytest.LogCaptureFixture) -> None:
    counted: list[str] = []
    order = GuardedOrder(Broken(wrong), counted.append)
    with caplog.at_level(logging.ERROR):
        ranks = [rank_of(order, request(), forecast()) for _ in range(5)]
    assert ranks == [rank_of(FifoOrder(), request())] * 5
    assert order.charge(request(), forecast()) == 0
    assert counted == ["broken"] * 6
    assert len(caplog.records) == 1
    assert (order.name, order.fair, order.patience_ms) == ("broken", True, 7.0)


@pytest.mark.parametrize(
    "wrong", [RuntimeError("no"), ZeroDivisionError(), float("nan"), float("inf"), -1.0, 0.0, None], ids=str
)
def test_whom_it_charges_and_how_far_one_steps_back(wrong: object, caplog: pytest.LogCaptureFixture) -> None:
    counted: list[str] = []
    order = GuardedOrder(Broken(wrong), counted.append)
    with caplog.at_level(logging.ERROR):
        assert [order.flow(request(tenant="t")) for _ in range(2)] == ["t", "t"]
        assert [order.haste(request()) for _ in range(2)] == [1.0, 1.0]
    assert counted == ["broken"] * 4
    assert len(caplog.records) == 1
    assert GuardedOrder(Broken("text")).flow(request()) == "text"
    assert GuardedOrder(Broken(2.5)).haste(request()) == 2.5


@pytest.mark.parametrize("wrong", [RuntimeError("no"), float("nan"), -1.0, "text", None], ids=str)
def test_what_it_is_like(wrong: object, caplog: pytest.LogCaptureFixture) -> None:
    class Unlike(Broken):
        @property
        def fair(self) -> bool:  # type: ignore[override]
            return self._fail()  # type: ignore[return-value]

        patience_ms = reach_ms = credit_ms = fair  # type: ignore[assignment]

    counted: list[str] = []
    wrong_one = Unlike(wrong)
    order = GuardedOrder(wrong_one, counted.append)
    with caplog.at_level(logging.ERROR):
        assert (order.patience_ms, order.reach_ms, order.credit_ms) == (PATIENCE_MS, math.inf, 0.0)
        assert order.fair is (bool(wrong) and not isinstance(wrong, Exception))
    assert len(counted) == 3 + isinstance(wrong, Exception)
    assert len(caplog.records) == 1
    wrong_one.wrong = True
    assert order.fair
    wrong_one.wrong = RuntimeError("no")
    assert order.fair, "as it was"


@pytest.mark.parametrize("wrong", [RuntimeError("no"), "no such engine", "full", 5], ids=str)
def test_a_placement_falls_back_to_the_least_loaded(wrong: object, caplog: pytest.LogCaptureFixture) -> None:
    counted: list[str] = []
    view = engines("full", "busy", "idle", slots=2, free={"full": 0, "busy": 1})
    placement = GuardedPlacement(Broken(wrong), counted.append)
    with caplog.at_level(logging.ERROR):
        found = [placement.choose(request(), forecast(), view, 0.0) for _ in range(3)]
    assert found == ["idle"] * 3
    assert counted == ["broken"] * 3
    assert len(caplog.records) == 1


def test_what_works_is_passed_on() -> None:
    order, plain = GuardedOrder(make_order("shortest")), make_order("shortest")
    assert order.handicap(request(), forecast()) == plain.handicap(request(), forecast()) > 0
    assert (order.reach_ms, GuardedOrder(make_order("fair")).reach_ms) == (math.inf, make_order("fair").reach_ms)
    view = engines("a", "b")
    for name in PLACEMENTS:
        assert GuardedPlacement(make_placement(name)).choose(request(), forecast(), view, 0.0) in ("a", "b")
    assert GuardedPlacement(Broken(Hold(5.0))).choose(request(), forecast(), view, 0.0) == Hold(5.0)
    assert GuardedPlacement(Broken(None)).choose(request(), forecast(), view, 0.0) is None
