"""What a client knows of the pools: how fast they drain, and whether a request can be in time."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from sagellm_control.client import pools as pools_module
from sagellm_control.client.errors import QueueUnavailable
from sagellm_control.client.pools import Pools
from sagellm_control.gateway.errors import from_queue
from sagellm_control.gateway.rate_limits import rate_limits
from sagellm_control.store.connect import Store
from sagellm_control.store.inspect import model_index
from sagellm_control.store.steps.accept import AcceptLimits
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.wire.priority import RequestPriority

from ..pool_driver import PoolDriver, new_request
from ..waiting import wait_until


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, to be moved."""
    at = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    return at


async def drain(pool: PoolDriver, pools: Pools, now: list[float], seconds: int, *, idle_s: float = 0.0) -> None:
    """One request is served each second; 30 wait. Before that there is nothing to do for a while."""
    await pool.engine(models=(pool.name,))
    if idle_s:
        await pools.look()
        now[0] += idle_s
    await pool.waiting("runs", *(f"w{i}" for i in range(29)))
    await pool.assign(Move("runs", 0, "e1"))
    running = "runs"
    for second in range(seconds):
        await pools.look()
        now[0] += 1
        await pool.finish(running)
        running = f"w{second}"
        await pool.assign(Move(running, 0, "e1"))
    await pools.look()


async def test_a_rate_is_only_one_of_draining_while_requests_wait(pool: PoolDriver, now: list[float]) -> None:
    pools = Pools(pool.store)
    await drain(pool, pools, now, 3)
    assert (pools.drain_rate(pool.name), pools.wait_s(pool.name, RequestPriority.NORMAL)) == (0.0, 0.0)


@pytest.mark.parametrize(("seconds", "retry_after_s"), [(9, 2), (2, 10)])
async def test_when_to_come_back_does_not_go_by_an_idle_time(
    pool: PoolDriver, now: list[float], seconds: int, retry_after_s: int
) -> None:
    """A tenth of 20 (or 28) that wait, one a second; while that rate is not known yet, nobody is sent away for
    longer than where nothing is known."""
    pools = Pools(pool.store)
    await drain(pool, pools, now, seconds, idle_s=60)
    assert pools.retry_after_s(pool.name) == retry_after_s
    headers = rate_limits(pools, AcceptLimits(), pool.name)
    if seconds > 5:
        assert int(headers["x-ratelimit-reset-requests"].removesuffix("s")) == pytest.approx(20, rel=0.25)


async def burst_after(pool: PoolDriver, pools: Pools, now: list[float], idle_s: int) -> None:
    """A request ends, for so long there is nothing to do, and then 30 wait at once."""
    await pool.engine(models=(pool.name,))
    await pool.running("before")
    await pools.look()
    await pool.finish("before")
    for _ in range(idle_s // 3):
        now[0] += 3
        await pools.look()
    await pool.waiting(*(f"w{i}" for i in range(30)))
    now[0] += 1
    await pools.look()


async def test_a_quiet_night_leaves_no_rate(pool: PoolDriver, now: list[float]) -> None:
    """A moving average gets ever smaller, and what waits divided by it would be no number in the end."""
    pools = Pools(pool.store)
    await burst_after(pool, pools, now, 9000)
    assert pools.rate(pool.name) == 0
    assert pools.retry_after_s(pool.name) == 10
    headers = rate_limits(pools, AcceptLimits(), pool.name)
    assert "x-ratelimit-remaining-requests" in headers
    assert "x-ratelimit-reset-requests" not in headers, "nothing is known"


async def test_what_ended_before_an_idle_time_makes_no_endless_wait(pool: PoolDriver, now: list[float]) -> None:
    pools = Pools(pool.store)
    await burst_after(pool, pools, now, 42)
    assert 0 < pools.rate(pool.name) < 30 / 3600
    assert rate_limits(pools, AcceptLimits(), pool.name)["x-ratelimit-reset-requests"] == "3600s"


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


async def test_a_process_that_was_stopped_does_not_blame_redis(pool: PoolDriver, now: list[float]) -> None:
    await pool.engine(models=(pool.name,))
    pools = Pools(pool.store)
    assert not pools.answered
    await pools.look()
    now[0] += 60
    assert pools.answered
    assert pools.trouble(pool.name) is None


async def test_a_redis_that_leaves_a_question_without_an_answer_is_away(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pool.engine(models=(pool.name,))
    pools = Pools(pool.store)
    await pools.look()
    answer = asyncio.Event()

    async def late_answer(store: Store) -> dict[str, str]:
        await answer.wait()
        return await model_index(store)

    monkeypatch.setattr(pools_module, "model_index", late_answer)
    asking = asyncio.create_task(pools.look())
    await asyncio.sleep(0)
    assert pools.answered
    with pytest.raises(TimeoutError):
        await asking
    assert not pools.answered
    assert re.fullmatch("Redis has not answered for [23] s", str(pools.trouble(pool.name)))
    answer.set()
    await pools.look()
    assert pools.answered
    assert pools.trouble(pool.name) is None


async def test_a_process_that_is_busy_does_not_blame_redis(pool: PoolDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    await pool.engine(models=(pool.name,))
    monkeypatch.setattr(pools_module, "LOOK_WITHIN_S", 0.3)
    pools = Pools(pool.store)
    asking = asyncio.create_task(pools.look())
    for _ in range(3):
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251  the loop is what is to be held up
    await asking
    assert pools.answered
    assert pools.trouble(pool.name) is None


async def test_many_who_ask_at_once_wait_for_one_answer(pool: PoolDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    # A client that gets a model's name wrong, again and again, is no silence of Redis.
    await pool.engine(models=(pool.name,))
    pools = Pools(pool.store)
    await pools.look()
    asked, answer = list[Store](), asyncio.Event()

    async def late_answer(store: Store) -> dict[str, str]:
        asked.append(store)
        await answer.wait()
        return await model_index(store)

    monkeypatch.setattr(pools_module, "model_index", late_answer)
    asking = [asyncio.create_task(pools.find(f"no-such-{n}")) for n in range(30)]
    await wait_until(lambda: pools.silence_s > 0, what="a turn is over")
    asking[0].cancel()
    assert pools.silence_s == pytest.approx(pools_module.TURN_S)
    assert pools.answered
    answer.set()
    assert await asyncio.gather(*asking[1:]) == [None] * 29
    assert asking[0].cancelled()
    assert len(asked) == 1


async def test_one_lost_connection_counts_once_for_all_who_asked(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pool.engine(models=(pool.name,))
    pools = Pools(pool.store)
    await pools.look()

    async def lost(store: Store) -> dict[str, str]:
        raise ConnectionError("reset")

    monkeypatch.setattr(pools_module, "model_index", lost)
    found = await asyncio.gather(*(pools.find(f"no-such-{n}") for n in range(5)), return_exceptions=True)
    assert [type(error) for error in found] == [ConnectionError] * 5
    assert pools.trouble(pool.name) is None


async def test_a_redis_that_refuses_twice_is_away(pool: PoolDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    await pool.engine(models=(pool.name,))
    pools = Pools(pool.store)
    await pools.look()

    async def refused(store: Store) -> dict[str, str]:
        raise ConnectionError("Error 111 connecting to 10.0.0.7:6379")

    monkeypatch.setattr(pools_module, "model_index", refused)
    for answered in (True, False):
        with pytest.raises(ConnectionError):
            await pools.look()
        assert pools.answered is answered
    refusal = from_queue(QueueUnavailable(pools.trouble(pool.name)))
    assert refusal.message == "The queue is not available: Redis cannot be reached.", "where it is, is not told"
