"""What a client knows of the pools: how fast they drain, and whether a request can be in time."""

from __future__ import annotations

import time

import pytest

from sagellm_control.client.pools import Pools
from sagellm_control.store.steps.assign import Placement
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.wire.priority import RequestPriority

from ..pool_driver import PoolDriver, new_request


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, to be moved."""
    at = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    return at


async def drain(pool: PoolDriver, pools: Pools, now: list[float], seconds: int) -> None:
    """One request is served each second; 30 wait."""
    await pool.engine(models=(pool.name,))
    await pool.waiting("runs", *(f"w{i}" for i in range(29)))
    await pool.assign(Placement("runs", 0, "e1"))
    running = "runs"
    for second in range(seconds):
        await pools.look()
        now[0] += 1
        await pool.finish(running)
        running = f"w{second}"
        await pool.assign(Placement(running, 0, "e1"))
    await pools.look()


async def test_a_rate_is_only_one_of_draining_while_requests_wait(pool: PoolDriver, now: list[float]) -> None:
    pools = Pools(pool.store)
    await drain(pool, pools, now, 3)
    assert (pools.drain_rate(pool.name), pools.wait_s(pool.name, RequestPriority.NORMAL)) == (0.0, 0.0)


async def test_the_wait_is_that_of_the_class_and_of_more_urgent_ones(pool: PoolDriver, now: list[float]) -> None:
    pools = Pools(pool.store)
    await drain(pool, pools, now, 9)
    assert pools.drain_rate(pool.name) == pytest.approx(1.0, rel=0.2)
    assert pools.wait_s(pool.name, RequestPriority.NORMAL) == pytest.approx(20, rel=0.2)
    assert pools.wait_s(pool.name, RequestPriority.HIGH) == 0.0


@pytest.mark.parametrize(
    ("asks", "slo_ms", "late", "refused"),
    [(True, 5000, "", True), (True, 60_000, "", False), (False, 5000, "", False), (False, 5000, "refuse", True)],
)
async def test_only_what_is_too_late_and_is_not_to_be_served_then(
    pool: PoolDriver, now: list[float], asks: bool, slo_ms: int, late: str, refused: bool
) -> None:
    pools = Pools(pool.store)
    await set_policy(pool.store, pool.name, {}, {"late": late})
    await drain(pool, pools, now, 9)
    request = new_request("r", pool.name, slo_ms=slo_ms, reject_late=asks)
    assert pools.is_too_late(request) is refused
