"""The overload mode: the newest first, who has waited for too long is refused; and no batch backlog brings it about."""

from __future__ import annotations

import pytest

from sagellm_control.scheduler.order import make_order
from sagellm_control.scheduler.overload import OverloadMode
from sagellm_control.scheduler.policy_settings import PolicySettings, WhenOverloaded
from sagellm_control.scheduler.pool_policy import PoolPolicy, record_settings
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import Arrival
from sagellm_control.wire.states import Outcome, Reason

from ..pool_driver import PoolDriver
from ..waiting import wait_until
from .requests import forecast
from .running import schedulers
from .test_work_conserving import until_held, until_waiting

ON = PolicySettings(overload=WhenOverloaded.CODEL, overload_interval_ms=1000, overload_target_ms=500)
CRITICAL, HIGH = RequestPriority.CRITICAL, RequestPriority.HIGH
NORMAL, BACKGROUND = RequestPriority.NORMAL, RequestPriority.BACKGROUND


def asking(arrived_ms: float, priority: RequestPriority = NORMAL) -> Arrival:
    return Arrival("r", priority, arrived_ms)


def test_a_standing_line_is_an_overload_and_a_burst_is_none() -> None:
    mode = OverloadMode(ON)
    assert mode.observe({NORMAL: 9}, 0) == {}
    assert mode.observe({NORMAL: 0}, 900) == {}
    assert mode.observe({NORMAL: 9}, 1800) == {}
    assert mode.observe({NORMAL: 1}, 1900) == {"overloaded_normal": "1900"}
    mode.follow({"overloaded_normal": "1900"})
    assert mode.observe({NORMAL: 5}, 3000) == {}
    assert mode.observe({NORMAL: 0}, 4000) == {"overloaded_normal": ""}


def test_a_backlog_of_batch_work_is_none() -> None:
    mode = OverloadMode(ON)
    assert [mode.observe({BACKGROUND: 99}, at) for at in (0, 5000, 10_000)] == [{}, {}, {}]


def test_off_is_off() -> None:
    mode = OverloadMode(PolicySettings())
    assert [mode.observe({NORMAL: 99}, at) for at in (0, 50_000, 100_000)] == [{}, {}, {}]
    mode.follow({"overloaded_normal": "5"})
    assert (mode.since_ms, mode.start(asking(10)), mode.refuses(asking(10), 1e9)) == ({}, 10, False)


def test_the_newest_starts_first_and_the_oldest_are_refused() -> None:
    mode = OverloadMode(ON)
    mode.follow({"overloaded_normal": "1000"})
    assert [mode.start(asking(at)) for at in (900, 1000, 1001, 1500)] == [900, 1000, 999, 500]
    assert mode.start(asking(1500, BACKGROUND)) == 1500
    assert [mode.refuses(asking(1000), now) for now in (1500, 1501)] == [False, True]


@pytest.mark.parametrize("order", ["fifo", "shortest", "slo_aware"])
@pytest.mark.parametrize("critical_too", ["", "500", "70000"])
def test_an_overloaded_class_does_not_overtake_more_urgent_ones(order: str, critical_too: str) -> None:
    mode, ranks = OverloadMode(ON), make_order(order, ON)
    mode.follow({"overloaded_normal": "1000", "overloaded_critical": critical_too})
    for at in (1001, 60_000, 600_000):
        urgent, high, normal = (
            mode.start(one) + ranks.handicap(one, forecast())
            for one in (asking(at, priority) for priority in (CRITICAL, HIGH, NORMAL))
        )
        assert urgent <= high <= normal, at
    assert not mode.refuses(asking(1001, HIGH), 1e9), "it is mirrored, and not overloaded"


@pytest.mark.parametrize("garbage", ["", "soon", "-5", "9" * 40, "²"])
def test_garbage_is_no_overload(garbage: str) -> None:
    mode = OverloadMode(ON)
    mode.follow({"overloaded_normal": garbage})
    assert mode.since_ms == {}


async def test_all_mirror_at_the_moment_that_the_first_has_found(pool: PoolDriver) -> None:
    await record_settings(pool.store, pool.name, {"overload": "codel", "overload_interval_ms": "1000"})
    began_ms = pool.clock.now_ms
    policies = [PoolPolicy(pool.store, pool.name) for _ in range(2)]
    for policy in policies:
        await policy.follow()
        await policy.notice_overload({NORMAL: 1}, began_ms)
    for late_ms, policy in enumerate(policies):
        await policy.notice_overload({NORMAL: 1}, began_ms + 1000 + 10 * late_ms)
    for policy in policies:
        await policy.follow()
        assert policy.overload.since_ms == {NORMAL: began_ms + 1000}
    await policies[0].notice_overload({}, began_ms + 2000)
    await policies[1].follow()
    assert policies[1].overload.since_ms == {}


async def test_schedulers_follow(pool: PoolDriver) -> None:
    wanted = {"overload": "codel", "overload_interval_ms": "1000", "overload_target_ms": "5000"}
    await record_settings(pool.store, pool.name, wanted)
    await pool.engine()
    async with schedulers(pool, 2, sweep_s=0.05) as made:
        await pool.accept("running")
        await until_held(pool, "e1", "running")
        await pool.accept("old")
        await until_waiting(pool, "old")
        for _ in range(11):
            pool.clock.advance(100)
            waiting = {NORMAL: 1}
            await made[0].policy.notice_overload(waiting, pool.clock.now_ms)
        await wait_until(lambda: all(s.policy.overload.since_ms for s in made), what="both know")
        pool.clock.advance(100)
        await pool.accept("newer")
        pool.clock.advance(100)
        await pool.accept("newest")
        await until_waiting(pool, "old", "newest", "newer")
        pool.clock.advance(4000)
        await pool.finish("running")
        await until_held(pool, "e1", "newest")
        ending = await pool.ending("old")
    assert (ending.outcome, ending.code) == (Outcome.REJECTED, Reason.OVERLOADED)
