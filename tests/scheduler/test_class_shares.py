"""``priority`` gives each class its least share, whatever the others ask for, and the urgent their head start."""

from __future__ import annotations

import heapq
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm_control.scheduler.forecast import Forecast
from sagellm_control.scheduler.head_of_line import Action, HeadOfLine, Look
from sagellm_control.scheduler.lateness import LATE_HANDICAP_MS
from sagellm_control.scheduler.order import make_order, rank_of
from sagellm_control.scheduler.order.priority import shares_of
from sagellm_control.scheduler.policy_settings import PolicySettings
from sagellm_control.scheduler.pool_policy import record_settings
from sagellm_control.scheduler.tenant_clock import TenantClock
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.engine import EngineSpeed
from sagellm_control.wire.priority import RequestPriority

from ..pool_driver import PoolDriver
from ..waiting import wait_until
from .line import Policies, candidate
from .requests import NOW_MS, engines, forecast, request
from .running import everything_is_settled, instant_workers, schedulers

CRITICAL, HIGH, NORMAL, LOW, BACKGROUND = RequestPriority


@pytest.mark.parametrize("least", [0.001, 0.01, 0.05, 0.2])
def test_the_shares(least: float) -> None:
    shares = shares_of(least)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[BACKGROUND] == least
    steps = [shares[one] / shares[next_one] for one, next_one in zip(shares, list(shares)[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * 4)
    assert steps[0] >= 1 - 1e-6


def test_the_usual_shares() -> None:
    assert [round(100 * share) for share in shares_of(PolicySettings().least_share).values()] == [65, 23, 8, 3, 1]


class Line:
    """A pool that serves one request after the other, in the order of the ranks."""

    def __init__(self, **settings: float) -> None:
        self.order = make_order("priority", PolicySettings.model_validate(settings))
        self.clock = TenantClock(1e6)
        self.waiting: list[tuple[float, int, RequestPriority, float, float]] = []
        self.sent = 0
        self.service: Counter[RequestPriority] = Counter()

    def send(self, priority: RequestPriority, work_ms: float = 100.0, engines: int = 1) -> None:
        asked, what = request(priority=priority), Forecast(1000, 0.0, work_ms * engines, 0.0, engines)
        start = self.clock.admit(self.order.flow(asked), self.order.charge(asked, what))
        self.sent += 1
        rank = start + self.order.handicap(asked, what)
        heapq.heappush(self.waiting, (rank, self.sent, priority, start, work_ms))

    def serve(self) -> RequestPriority:
        _, _, priority, start, work_ms = heapq.heappop(self.waiting)
        self.clock.assign(self.order.flow(request(priority=priority)), start)
        self.service[priority] += round(work_ms)
        return priority

    def until(self, wanted: RequestPriority, sends: RequestPriority) -> int:
        """How many are served until one of the class is, while there are ever more of another class."""
        for number in range(1_000_000):
            self.send(sends)
            self.send(sends)
            if self.serve() is wanted:
                return number
        return -1


def test_background_moves_under_any_load_of_critical() -> None:
    line = Line(aging_s=10, least_share=0.01)
    for _ in range(50):
        line.send(CRITICAL)
    line.send(BACKGROUND)
    # Its head start is 40 s of virtual time; CRITICAL has 65 % of it: 100 ms of work move it by 153 ms.
    first = line.until(BACKGROUND, CRITICAL)
    assert 250 <= first <= 265
    for _ in range(20):
        line.send(BACKGROUND)
    served = [line.until(BACKGROUND, CRITICAL) for _ in range(20)]
    # 1 of 66, of those that both wait: 65 CRITICAL in between.
    assert sum(served[5:]) / 15 == pytest.approx(65.3, rel=0.03)


def test_a_flood_of_background_does_not_delay_what_is_urgent() -> None:
    line = Line()
    for _ in range(100):
        line.send(BACKGROUND, 1000.0)
    for _ in range(20):
        line.serve()
    # Aging alone would put all that have waited for over four minutes ahead of it.
    for urgent in (CRITICAL, HIGH, NORMAL, LOW):
        line.send(urgent)
        assert line.serve() is urgent


def test_within_the_head_start_the_urgent_simply_go_first() -> None:
    line = Line()
    for _ in range(10):
        for priority in (BACKGROUND, NORMAL, CRITICAL, LOW, HIGH):
            line.send(priority, 20.0)
    assert [line.serve() for _ in range(50)] == [priority for priority in RequestPriority for _ in range(10)]


def test_who_steps_back_does_so_for_the_same_time_when_its_class_is_alone() -> None:
    # Ten minutes of service, in which the virtual time of a class that is alone runs ahead by its share.
    line = Line(least_share=0.01)
    view = engines("a")
    policies = Policies(order=line.order)
    late = candidate("late", tokens=10_000, slo_ms=500)
    decision = HeadOfLine(policies, view).decide(late, Look(), NOW_MS)
    assert decision.action is Action.STEP_BACK
    served_ms = 1000.0
    moved_ms = line.order.charge(request(), Forecast(1, 0.0, served_ms, 0.0))
    assert (decision.rank - late.rank) / moved_ms == pytest.approx(LATE_HANDICAP_MS / served_ms)


def test_without_a_share_it_is_aging_alone() -> None:
    order = make_order("priority", PolicySettings(least_share=0, aging_s=60))
    asked = request(priority=LOW)
    assert (order.fair, order.flow(asked), order.charge(asked, forecast())) == (False, "", 0)
    assert rank_of(order, asked, forecast()) == asked.arrived_ms + 180_000


def test_work_is_that_of_the_whole_pool() -> None:
    order, asked = make_order("priority", PolicySettings(least_share=0.2, decode_share=0.1)), request()
    assert order.charge(asked, Forecast(1, 1.0, 1000.0, 5000.0)) == pytest.approx(1500 * 5)
    assert order.charge(asked, Forecast(1, 1.0, 1000.0, 5000.0, 10)) == pytest.approx(150 * 5)
    assert order.charge(asked, Forecast(1, 1.0, 1000.0, 5000.0), 100.0) == pytest.approx(1500 * 5), "a tenant's weight"


works = st.lists(st.floats(1, 5000), min_size=1, max_size=5)


@given(
    st.dictionaries(st.sampled_from(RequestPriority), works, min_size=2),
    st.sampled_from([0.01, 0.1, 0.2]),
    st.sampled_from([0.0, 1.0]),
    st.integers(50, 400),
)
@settings(max_examples=100, deadline=None)
def test_the_bound(works: dict[RequestPriority, list[float]], least: float, aging_s: float, served: int) -> None:
    line = Line(aging_s=aging_s, least_share=least)
    shares = shares_of(least)
    for number in range(served):
        for priority, sizes in works.items():
            line.send(priority, sizes[number % len(sizes)])  # all have requests waiting all the time
        line.serve()
        for one in works:
            for other in works:
                most = sum(max(works[each]) / shares[each] for each in (one, other)) + 8 * aging_s * 1000
                gap = line.service[one] / shares[one] - line.service[other] / shares[other]
                rounding = served * 0.5 / shares[max(works)]
                assert gap <= most + rounding


@pytest.mark.parametrize("count", [1, 3])
async def test_schedulers_share_what_each_class_has_had(pool: PoolDriver, count: int) -> None:
    await pool.engine(slots=2, speed=EngineSpeed(prefill_tps=10_000))
    await pool.running("busy-1", "busy-2")
    await record_settings(pool.store, pool.name, {"policy": "priority", "aging_s": "0.5", "least_share": "0.05"})
    kinds: dict[str, RequestPriority] = {}
    async with schedulers(pool, count):
        for number in range(200):
            name = f"r{number:03}"
            kinds[name] = BACKGROUND if number % 5 == 0 else CRITICAL
            await pool.accept(name, priority=kinds[name], prompt_tokens=1000, max_tokens=1)
        await wait_until(lambda: everything_is_settled(pool))
        async with instant_workers(pool, "e1") as (answered, _):
            await wait_until(lambda: len(answered) == 202)
    order = [kinds[name] for name in answered if name in kinds]
    # Shares of 5 and 45 %: nine to one, after a head start of 2 s, which is 9 requests of 0.1 s for 45 %.
    assert BACKGROUND not in order[:8]
    assert Counter(order[:110])[BACKGROUND] in range(9, 13)
    for priority in (CRITICAL, BACKGROUND):
        of_class = [name for name in answered if kinds.get(name) is priority]
        assert count > 1 or of_class == sorted(of_class)
    assert await ranked(pool) == {}, "nobody waits any more"


async def test_a_change_of_policy_takes_the_classes_along(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("busy")
    await record_settings(pool.store, pool.name, {"policy": "fair"})
    async with schedulers(pool, sweep_s=0.05):
        for number, priority in enumerate((BACKGROUND, CRITICAL, NORMAL)):
            await pool.accept(f"r{number}", priority=priority, tenant="t", prompt_tokens=1000)
        await wait_until(lambda: everything_is_settled(pool))

        assert await ranked(pool) == {"t": 3}
        await record_settings(pool.store, pool.name, {"policy": "priority"})
        await wait_until(lambda: ranked_is(pool, {"class:0": 1, "class:2": 1, "class:4": 1}))
        assert await pool.waiting_ids() == ["r1", "r2", "r0"]
        await record_settings(pool.store, pool.name, {"policy": "shortest"})
        await wait_until(lambda: ranked_is(pool, {}))


async def test_what_comes_back_counts_for_its_class_again(pool: PoolDriver) -> None:
    await pool.engine()
    await record_settings(pool.store, pool.name, {"policy": "priority"})
    async with schedulers(pool):
        await pool.accept("first", priority=HIGH, tenant="t")
        await wait_until(lambda: pool.holds("e1"))
        assert await ranked(pool) == {}
        await pool.accept("second", priority=CRITICAL, tenant="t")
        await wait_until(lambda: ranked_is(pool, {"class:0": 1}))
    await pool.requeue("first", Cause.RETURNED)
    assert await ranked(pool) == {"class:0": 1, "class:1": 1}


async def ranked(pool: PoolDriver) -> dict[str, int]:
    backlog = await pool.store.commands.hgetall(pool.keys.backlog)
    return {name.decode()[7:]: int(n) for name, n in backlog.items() if name.startswith(b"ranked/")}


async def ranked_is(pool: PoolDriver, wanted: dict[str, int]) -> bool:
    return await ranked(pool) == wanted
