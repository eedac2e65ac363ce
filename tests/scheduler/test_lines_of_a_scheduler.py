"""A scheduler on a real server decides about the head of the line as ``head_of_line`` says."""

from __future__ import annotations

import pytest

from sagellm_control.scheduler.ring import Ring
from sagellm_control.wire.engine import EngineSpeed

from ..pool_driver import PoolDriver
from ..samples import sample
from ..waiting import wait_until
from .running import everything_is_settled, metric, schedulers
from .test_work_conserving import until_held, until_waiting

PROMPT = tuple(f"block{n}" for n in range(10))


async def test_a_cached_prompt_does_not_step_back(pool: PoolDriver) -> None:
    await pool.engine(speed=EngineSpeed(prefill_tps=10_000))
    await pool.running("busy")
    async with schedulers(pool) as (scheduler,):
        scheduler.watch.engines.prefixes.note("e1", PROMPT[:8])
        await pool.accept("a", prompt_tokens=10_000, slo_ms=1100, prefix=PROMPT)
        await until_waiting(pool, "a")
        pool.clock.advance(500)
        await pool.finish("busy")
        await until_held(pool, "e1", "a")
    assert metric(pool, "late", result="late") == 0
    assert "late" not in await pool.record("a")


async def test_a_late_one_takes_no_engine_for_which_one_in_time_holds_out(pool: PoolDriver) -> None:
    await pool.engine("e1")
    await pool.engine("e2")
    await pool.running("busy-1", engine="e1")
    await pool.running("busy-2", engine="e2")
    async with schedulers(pool, policy="fifo", placement="session") as (scheduler,):
        await pool.accept("late", slo_ms=100)
        await until_waiting(pool, "late")
        pool.clock.advance(1000)
        home = scheduler.watch.engines.on_ring
        (arrival,) = [waiting.arrival for waiting in [await scheduler.waiting.head()] if waiting is not None]
        session = next(f"s{n}" for n in range(100) if next(iter(home(arrival, f"s{n}", 1))) == "e1")
        await pool.accept("loyal", session=session)
        await until_waiting(pool, "late", "loyal")
        await pool.finish("busy-2", engine="e2")
        await until_waiting(pool, "loyal", "late")
        assert await pool.holds("e2") == set()
        await pool.finish("busy-1", engine="e1")
        await until_held(pool, "e1", "loyal")
        await until_held(pool, "e2", "late")
        await wait_until(lambda: everything_is_settled(pool))
    assert metric(pool, "late", result="late") == 1


async def test_behind_late_ones_that_leave_their_engines_alone_others_are_found(pool: PoolDriver) -> None:
    ring = Ring()
    for engine in ("e1", "e2"):
        ring.add(engine)
        await pool.engine(engine, models=("plain",))
    await pool.engine("tuned", models=("lora",))
    home = next(ring.walk("session", 1))
    await pool.running("busy", engine=home, model="plain")
    crowd = [f"late-{n}" for n in range(20)]
    await pool.waiting(*crowd, model="plain")
    await pool.waiting("late-tuned", model="lora")
    for n, request_id in enumerate((*crowd, "late-tuned")):
        await pool.store.commands.zadd(pool.keys.waiting, {request_id: pool.clock.now_ms + 600_000 + n})
        await pool.store.commands.hset(pool.keys.record(request_id), "late", "1")
    async with schedulers(pool, policy="fifo", placement="session", batch=8):
        await pool.accept("loyal", model="plain", session="session")
        await until_held(pool, "tuned", "late-tuned")
        assert await pool.waiting_ids() == ["loyal", *crowd]


async def test_the_time_to_the_first_token_is_predicted_for_all_that_are_assigned(pool: PoolDriver) -> None:
    await pool.engine(slots=1, speed=EngineSpeed(prefill_tps=10_000))
    async with schedulers(pool):
        await pool.accept("a", prompt_tokens=10_000)
        await until_held(pool, "e1", "a")
        assert predictions(pool) == (1, pytest.approx(1.0, abs=0.2))
        await pool.accept("b", prompt_tokens=20_000)
        await until_waiting(pool, "b")
        pool.clock.advance(5000)
        await pool.finish("a")
        await until_held(pool, "e1", "b")
    # What it waited, and its own prefill.
    assert predictions(pool) == (2, pytest.approx(1.0 + 7.0, abs=0.4))


def predictions(pool: PoolDriver) -> tuple[float, float]:
    name = "sagellm_control_scheduler_predicted_ttft_seconds"
    return sample(f"{name}_count", pool=pool.name), sample(f"{name}_sum", pool=pool.name)
