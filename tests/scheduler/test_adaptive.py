"""The adaptive order: its rules, its patience, and that it says why."""

from __future__ import annotations

import pytest

from sagellm_control.scheduler.order import make_order, rank_of
from sagellm_control.scheduler.order.adaptive import DWELL_MS, AdaptiveOrder, PoolLoad
from sagellm_control.wire.priority import RequestPriority

from .requests import forecast, request


def adaptive() -> AdaptiveOrder:
    order = make_order("adaptive")
    assert isinstance(order, AdaptiveOrder)
    return order


def feed(order: AdaptiveOrder, start_ms: float = 0.0, seconds: int = 11, **load: float) -> str:
    for second in range(seconds):
        order.observe(PoolLoad(start_ms + second * 1000, **({"waiting": 0, "slots": 100} | load)))  # type: ignore[arg-type]
    return order.current.name


CALM = {"waiting": 3}
TIGHT = {"waiting": 60, "with_objective": 0.9}
OVER = {"waiting": 300}
MISSING = {"waiting": 60, "missed": 0.1, "with_objective": 0.9}
CROWDED_OUT = {"waiting": 300, "tenants": 5, "top_tenant": 0.8}


@pytest.mark.parametrize(
    ("load", "name", "why"),
    [
        (CALM, "priority", "calm"),
        (TIGHT, "slo_aware", "tight: 60 wait for 100 slots, 90% of them with an objective"),
        ({"waiting": 60}, "priority", "calm"),
        (OVER, "shortest", "over capacity: 300 wait for 100 slots"),
        (MISSING, "shortest", "over capacity: 10% of the objectives were missed"),
        (CROWDED_OUT, "fair", "crowded out by one: 300 wait for 100 slots, 80% of them of one tenant"),
        ({"waiting": 300, "tenants": 1, "top_tenant": 1.0}, "shortest", "over capacity"),
        ({"waiting": 10, "tenants": 5, "top_tenant": 1.0}, "priority", "calm"),
    ],
    ids=["calm", "tight", "no objectives", "over capacity", "missing", "crowded out", "one tenant alone", "few wait"],
)
def test_the_table(load: dict[str, float], name: str, why: str) -> None:
    order = adaptive()
    assert feed(order, **load) == name
    assert order.why.startswith(why)


def test_it_starts_calm() -> None:
    order = adaptive()
    asked = request(priority=RequestPriority.LOW)
    assert (order.name, order.current.name, order.fair) == ("adaptive", "priority", True)
    assert rank_of(order, asked, forecast()) == rank_of(make_order("priority"), asked, forecast())


def test_it_moves_once_and_says_so() -> None:
    order = adaptive()
    moved = [order.observe(PoolLoad(s * 1000.0, 300, 100)) for s in range(30)]
    assert moved.count(True) == 1
    assert moved.index(True) == DWELL_MS / 1000


def test_a_short_burst_moves_nothing() -> None:
    order = adaptive()
    for start in range(0, 600, 10):
        feed(order, start * 1000.0, 9, **OVER)
        assert feed(order, start * 1000.0 + 9000, 1, **CALM) == "priority"


def test_it_goes_back_at_half_of_what_moved_it() -> None:
    order = adaptive()
    assert feed(order, 0, **OVER) == "shortest"
    assert feed(order, 100_000, waiting=110) == "shortest"
    assert feed(order, 200_000, waiting=90) == "priority"
    assert feed(order, 300_000, waiting=110) == "priority"


def test_at_the_edge_it_does_not_swing() -> None:
    order = adaptive()
    names = {feed(order, 0, **OVER)}
    for second in range(600):
        order.observe(PoolLoad(20_000.0 + second * 1000, 190 + 20 * (second % 2), 100))
        names.add(order.current.name)
    assert names == {"shortest"}


def test_it_charges_as_the_current_one_does() -> None:
    order = adaptive()
    asked = request(tenant="t")
    assert order.flow(asked) == make_order("priority").flow(asked) != ""
    feed(order, **CROWDED_OUT)
    assert (order.fair, order.flow(asked)) == (True, "t")
    assert order.charge(asked, forecast()) == make_order("fair").charge(asked, forecast()) > 0
    feed(order, 100_000, **OVER)
    assert not order.fair
    assert order.charge(asked, forecast()) == 0


def test_it_takes_over_what_another_scheduler_moved_to() -> None:
    order = adaptive()
    order.adopt("shortest", "over capacity: so it was told")
    assert (order.current.name, order.why) == ("shortest", "over capacity: so it was told")
    order.adopt("lottery", "?")
    assert order.current.name == "shortest"
