"""Only the holder of the current attempt can claim, add output, finish or give back (invariant 3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.engines import register_engine, retire_engine
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.states import EngineState

from ..pool_driver import LEASE_MS, PoolDriver

Step = Callable[[PoolDriver], Awaitable[object]]
"""A step on request "a", as the first attempt's holder would call it: worker "w-e1" on engine "e1"."""

HOLDER = {"attempt": 1, "engine": "e1", "worker": "w-e1"}
STEPS: dict[str, tuple[Step, object]] = {
    "claim": (lambda pool: pool.claim("a", **HOLDER), "lost"),
    "append": (lambda pool: pool.append("a", 1, **HOLDER), False),
    "finish": (lambda pool: pool.finish("a", 1, **HOLDER), False),
    "requeue": (lambda pool: pool.requeue("a", **HOLDER), "lost"),
}


async def never_assigned(pool: PoolDriver) -> None:
    await pool.waiting("a")


async def unknown(pool: PoolDriver) -> None:
    """There is no such request."""


async def waits_again(pool: PoolDriver) -> None:
    await pool.running("a")
    await pool.requeue("a", Cause.RETURNED)


async def runs_elsewhere(pool: PoolDriver) -> None:
    await waits_again(pool)
    await pool.engine("e2")
    await pool.assign(Move("a", 1, "e2"))
    await pool.claim("a", 2, engine="e2")


async def runs_here_again_in_a_second_attempt(pool: PoolDriver) -> None:
    await waits_again(pool)
    await pool.assign(Move("a", 1, "e1"))
    await pool.claim("a", 2)


async def finished_elsewhere(pool: PoolDriver) -> None:
    await runs_elsewhere(pool)
    assert await pool.finish("a", attempt=2, engine="e2")


async def engine_retired(pool: PoolDriver) -> None:
    await pool.running("a")
    await retire_engine(pool.store, pool.name, "e1", "w-e1", EngineState.ERROR, "")


async def engine_taken_by_a_second_session(pool: PoolDriver) -> None:
    await pool.running("a")
    await pool.second_worker()


async def runs_on_the_second_session(pool: PoolDriver) -> None:
    await engine_taken_by_a_second_session(pool)
    await pool.assign(Move("a", 1, "e1"))
    assert await pool.claim("a", 2, worker="w-second") == "running"


SITUATIONS = (
    never_assigned,
    unknown,
    waits_again,
    runs_elsewhere,
    runs_here_again_in_a_second_attempt,
    finished_elsewhere,
    engine_retired,
    engine_taken_by_a_second_session,
    runs_on_the_second_session,
)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("step", STEPS)
async def test_who_lost_the_attempt_changes_nothing(
    pool: PoolDriver, step: str, situation: Callable[[PoolDriver], Awaitable[None]]
) -> None:
    await pool.engine("e1")
    await situation(pool)
    call, refused = STEPS[step]
    before = [await pool.record("a"), await pool.events("a"), await pool.counters(), await pool.waiting_ids()]
    held = {engine: await pool.holds(engine) for engine in pool.rows}
    assert await call(pool) == refused
    assert [await pool.record("a"), await pool.events("a"), await pool.counters(), await pool.waiting_ids()] == before
    assert {engine: await pool.holds(engine) for engine in pool.rows} == held


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "wrong",
    [{"worker": "w-other"}, {"worker": ""}, {"attempt": 2}, {"attempt": 0}, {"engine": "e2", "worker": "w-e2"}],
    ids=["another session", "no session", "the next attempt", "no attempt", "another engine"],
)
async def test_who_never_had_it_changes_nothing(pool: PoolDriver, step: str, wrong: dict[str, object]) -> None:
    await pool.engine("e1")
    await pool.engine("e2")
    await pool.running("a")
    before = await pool.record("a")
    method = getattr(pool, step)
    assert await method("a", **(HOLDER | wrong)) == STEPS[step][1]
    assert await pool.record("a") == before
    assert await pool.holds() == {"a"}


async def test_the_same_session_may_register_again_and_keeps_what_it_runs(pool: PoolDriver) -> None:
    row = await pool.engine("e1")
    await pool.running("a")
    assert await register_engine(pool.store, row, lease_ms=LEASE_MS) is None
    assert await pool.append("a")
    assert await pool.finish("a", 2)
