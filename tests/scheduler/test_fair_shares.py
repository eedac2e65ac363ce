"""``fair`` keeps the bound that its docstring states, whatever the tenants ask for."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm_control.scheduler.forecast import Forecast
from sagellm_control.scheduler.order import make_order
from sagellm_control.scheduler.policy_settings import PolicySettings
from sagellm_control.scheduler.tenant_clock import TenantClock
from sagellm_control.wire.priority import RequestPriority

from .requests import request


@dataclass
class Tenant:
    weight: float
    lengths: list[tuple[int, int]]
    """(Prompt, output) tokens of its requests, over and over."""
    priorities: list[RequestPriority]
    depth: int
    """Requests that it keeps waiting."""


tenants = st.builds(
    Tenant,
    st.sampled_from([0.5, 1.0, 1.0, 2.0, 5.0]),
    st.lists(st.tuples(st.integers(1, 20_000), st.integers(0, 2000)), min_size=1, max_size=5),
    st.lists(st.sampled_from(RequestPriority), min_size=1, max_size=3),
    st.integers(1, 20),
)


@given(
    st.lists(tenants, min_size=2, max_size=5),
    st.integers(20, 300),
    st.booleans(),
    st.sampled_from([0.0, 1.0]),
    st.integers(0, 100),
)
@settings(max_examples=150, deadline=None)
def test_the_service_gap(
    crowd: list[Tenant], served: int, inner_shortest: bool, aging_s: float, comes_after: int
) -> None:
    order = make_order("fair", PolicySettings(inner="shortest" if inner_shortest else "fifo", aging_s=aging_s))
    clock = TenantClock(1000.0, order.credit_ms)
    waiting: list[tuple[float, int, int, float, float]] = []
    sent = [0] * len(crowd)
    service = [0.0] * len(crowd)
    most_charge = [0.0] * len(crowd)
    handicaps: list[float] = []

    def send(number: int) -> None:
        tenant = crowd[number]
        prompt, output = tenant.lengths[sent[number] % len(tenant.lengths)]
        asked = request(priority=tenant.priorities[sent[number] % len(tenant.priorities)])
        what = Forecast(prompt, output, prompt / 10, output * 20.0)
        sent[number] += 1
        charge = order.charge(asked, what, tenant.weight)
        start = clock.admit(str(number), charge)
        handicaps.append(order.handicap(asked, what))
        most_charge[number] = max(most_charge[number], charge)
        heapq.heappush(waiting, (start + handicaps[-1], sum(sent), number, start, charge))

    def come(number: int) -> None:
        for _ in range(crowd[number].depth):
            send(number)

    here = len(crowd) - 1
    for number in range(here):
        come(number)
    for turn in range(served):
        if turn == comes_after:  # the last one had nothing waiting so far: what is counted begins anew
            come(here)
            here, service = len(crowd), [0.0] * len(crowd)
        _, _, number, start, charge = heapq.heappop(waiting)
        send(number)  # before one leaves, so that all have requests waiting all the time
        clock.assign(str(number), start)
        service[number] += charge
        spread = 2 * (max(handicaps) - min(handicaps))
        for one in range(here):
            for other in range(one):
                gap = abs(service[one] - service[other])
                assert gap <= most_charge[one] + most_charge[other] + spread + order.credit_ms + 1e-6


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1000), st.booleans()), max_size=200))
def test_the_clock_never_goes_back_and_keeps_nobody_who_is_idle(steps: list[tuple[int, float, bool]]) -> None:
    clock = TenantClock(500.0)
    starts: dict[str, float] = {}
    before = clock.virtual_ms
    for number, charge, assigned in steps:
        start = clock.admit(str(number), charge)
        assert start >= starts.get(str(number), before)
        starts[str(number)] = start
        if assigned:
            clock.assign(str(number), start)
        assert clock.virtual_ms >= before
        before = clock.virtual_ms


def test_who_was_idle_is_lifted() -> None:
    clock = TenantClock()
    for _ in range(10):
        clock.assign("busy", clock.admit("busy", 100.0))
    assert clock.admit("idle", 100.0) == clock.virtual_ms == 900.0


def test_who_was_idle_starts_ahead_by_its_credit_and_no_more() -> None:
    clock = TenantClock(credit_ms=250.0)
    for _ in range(10):
        clock.assign("busy", clock.admit("busy", 100.0))
    assert clock.virtual_ms == 650.0, "the first one had its credit"
    assert [clock.admit("idle", 100.0) for _ in range(4)] == [400.0, 500.0, 600.0, 700.0]
    assert clock.admit("busy", 100.0) == 750.0, "what it has used of it comes back with the virtual time alone"


def test_whose_credit_is_not_whole_is_remembered() -> None:
    clock = TenantClock(credit_ms=1000.0)
    for number in range(300):
        clock.assign(f"t{number}", clock.admit(f"t{number}", 1.0))
    assert clock.tenants == 300
    assert clock.next_start("t0") == -999.0


def test_one_that_floods_waits_for_itself_alone() -> None:
    clock = TenantClock()
    flood = [clock.admit("flood", 100.0) for _ in range(1000)]
    other = clock.admit("other", 100.0)
    assert sum(start < other for start in flood) == 0
    assert flood[-1] == 99_900.0


def test_what_was_charged_too_much_is_given_back() -> None:
    clock = TenantClock()
    clock.admit("t", 1000.0)
    clock.settle("t", -400.0)
    assert clock.next_start("t") == 600.0
    clock.settle("t", +50.0)
    assert clock.next_start("t") == 650.0
    clock.settle("t", -10_000.0)
    assert clock.next_start("t") == clock.virtual_ms
    clock.settle("nobody", 5.0)
    assert clock.tenants == 1


def test_who_waits_keeps_its_lead_when_virtual_time_runs_ahead() -> None:
    clock = TenantClock()
    assert clock.admit("patient", 10.0) == 0.0
    clock.assign("urgent", 500.0)
    assert clock.admit("patient", 10.0) == 10.0
    for start in (0.0, 10.0):
        clock.assign("patient", start)
    assert clock.admit("patient", 10.0) == 500.0


def test_what_was_never_served_is_given_back() -> None:
    clock = TenantClock()
    for _ in range(100):
        clock.admit("t", 50.0)
    for _ in range(100):
        clock.drop("t", 50.0)
    assert clock.next_start("t") == clock.virtual_ms == 0.0
    clock.requeue("t")
    clock.assign("other", 70.0)
    assert clock.next_start("t") == 0.0


def test_tenants_that_are_gone_are_forgotten() -> None:
    clock = TenantClock()
    for number in range(10_000):
        clock.assign(f"t{number}", clock.admit(f"t{number}", 1.0) + 2.0)
    assert clock.tenants < 200
