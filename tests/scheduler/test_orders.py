"""Orders: pure, and nobody starves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_control.scheduler.order import DEFAULT_ORDER, ORDERS, FifoOrder, PriorityOrder, make_order, rank_of
from sagellm_control.scheduler.policy_settings import PolicySettings
from sagellm_control.store.steps.rank import write_rank
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import Arrival

AGING_MS = 60_000.0
NOW_MS = 1_800_000_000_000.0

priorities = st.sampled_from(RequestPriority)
offsets_ms = st.integers(min_value=0, max_value=10_000_000)


def arrival(priority: RequestPriority = RequestPriority.NORMAL, offset_ms: float = 0.0) -> Arrival:
    return Arrival("r", priority, NOW_MS + offset_ms)


@given(priorities, offsets_ms, priorities, offsets_ms)
def test_fifo_looks_at_nothing_but_the_time(p1: RequestPriority, t1: int, p2: RequestPriority, t2: int) -> None:
    order = FifoOrder()
    assert (rank_of(order, arrival(p1, t1)) < rank_of(order, arrival(p2, t2))) == (t1 < t2)


def test_of_one_moment_the_urgent_class_goes_first() -> None:
    ranks = [rank_of(PriorityOrder(AGING_MS), arrival(priority)) for priority in sorted(RequestPriority)]
    assert ranks == sorted(set(ranks))


@given(priorities, st.integers(min_value=1, max_value=10_000_000))
def test_within_a_class_the_older_goes_first(priority: RequestPriority, later_ms: int) -> None:
    order = PriorityOrder(AGING_MS)
    assert rank_of(order, arrival(priority)) < rank_of(order, arrival(priority, later_ms))


@given(priorities, priorities, offsets_ms)
def test_who_has_aged_enough_goes_before_everybody_who_came_later(
    mine: RequestPriority, theirs: RequestPriority, later_ms: int
) -> None:
    # The bound on starvation: behind nobody who came more than (class × aging) later.
    order = PriorityOrder(AGING_MS)
    head_start_ms = (mine - theirs) * AGING_MS
    assert (rank_of(order, arrival(mine)) < rank_of(order, arrival(theirs, later_ms))) == (later_ms > head_start_ms)
    if later_ms > int(mine) * AGING_MS:
        assert rank_of(order, arrival(mine)) < rank_of(order, arrival(theirs, later_ms))


def test_without_aging_it_is_fifo() -> None:
    order = PriorityOrder(0)
    assert rank_of(order, arrival(RequestPriority.BACKGROUND)) == rank_of(FifoOrder(), arrival())


@pytest.mark.parametrize("name", ORDERS)
def test_the_same_request_has_the_same_rank(name: str) -> None:
    request = arrival(RequestPriority.LOW, 0.125)
    ranks = {rank_of(make_order(name, settings=PolicySettings(aging_s=AGING_MS / 1000)), request) for _ in range(3)}
    assert len(ranks) == 1


@given(priorities, st.integers(min_value=0, max_value=10_000_000_000))
def test_a_rank_survives_being_written(priority: RequestPriority, offset_us: int) -> None:
    # The record keeps the text; the sorted set keeps the number that Redis reads from it.
    rank = rank_of(PriorityOrder(AGING_MS), arrival(priority, offset_us / 1000))
    text = write_rank(rank)
    assert abs(float(text) - rank) <= 0.0005
    assert write_rank(float(text)) == text


def test_a_microsecond_is_told_apart() -> None:
    assert write_rank(NOW_MS) != write_rank(NOW_MS + 0.001)


def test_orders_are_known_by_their_names() -> None:
    assert {make_order(name).name for name in ORDERS} == set(ORDERS)
    assert DEFAULT_ORDER == "shortest"
    with pytest.raises(ValueError, match=r"unknown policy 'lottery'.*fifo, priority"):
        make_order("lottery")
