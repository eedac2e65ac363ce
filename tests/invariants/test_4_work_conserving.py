"""Invariant 4. Work-conserving: no request waits while an engine that may take it has room."""

from __future__ import annotations

import asyncio
import random

import pytest

from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.engines import drain_engine
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.priority import RequestPriority

from ..pool_driver import PoolDriver
from ..pool_state import PoolState, read_state, violations
from ..scheduler.running import everything_is_settled, metric, schedulers
from ..waiting import wait_until

LORAS = ("", "", "lora-1", "lora-2")
ENGINES = {"e1": ("lora-1",), "e2": ("lora-1", "lora-2"), "e3": (), "e4": ("lora-2",)}


def waits_beside_room(state: PoolState) -> list[str]:
    """Requests that wait although an engine that may take them has a place."""
    found: list[str] = []
    ready = {name for name, engine in state.engines.items() if engine.row["state"] == "READY"}
    for request_id in state.waiting:
        record = state.records[request_id]
        failed_last = set(record.get("excluded", "").split()[-1:])
        serving = {e for e in ready if not record.get("model") or record["model"] in ENGINES[e]}
        allowed = serving - failed_last or serving
        asks = f"{request_id} (model {record.get('model')!r}, failed last on {sorted(failed_last)})"
        found += [f"{asks} could go to {e} of {sorted(ready)}" for e in sorted(allowed) if state.room[e] > 0]
    return found


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("seed", [1, 2])
async def test_work_conserving_at_rest_after_every_burst(pool: PoolDriver, seed: int, count: int) -> None:
    chance = random.Random(seed)
    for engine, models in ENGINES.items():
        await pool.engine(engine, slots=3, models=models)

    idle_beside: list[str] = []

    async def at_rest() -> bool:
        if not await everything_is_settled(pool):
            return False
        idle_beside[:] = waits_beside_room(await read_state(pool.store, pool.keys))
        return not idle_beside

    async def disturb(n: int) -> None:
        match chance.randrange(7):
            case 0 | 1:
                for m in range(chance.randrange(1, 9)):
                    level = chance.choice(list(RequestPriority))
                    await pool.accept(f"r{n}-{m}", model=chance.choice(LORAS), priority=level)
            case 2 | 3 | 4:
                for request_id, engine, attempt in await running():
                    if chance.random() < 0.4:
                        await pool.finish(request_id, attempt=attempt, engine=engine)
            case 5:
                for request_id, engine, attempt in await running():
                    if chance.random() < 0.3:
                        cause = chance.choice((Cause.FAILED, Cause.RETURNED))
                        await pool.requeue(request_id, cause, attempt=attempt, engine=engine)
            case _:
                await drain_engine(pool.store, pool.name, chance.choice(list(ENGINES)), drain=chance.random() < 0.3)
                if waiting := await pool.waiting_ids():
                    await cancel(pool.store, pool.name, chance.choice(waiting))

    async def running() -> list[tuple[str, str, int]]:
        state = await read_state(pool.store, pool.keys)
        return [(w["id"], name, int(w["attempt"])) for name, e in state.engines.items() for w in e.work]

    async with schedulers(pool, count):
        for n in range(40):
            await asyncio.gather(*(disturb(10 * n + m) for m in range(2)))
            await wait_until(at_rest, 20, what=lambda: idle_beside)
        assert violations(await read_state(pool.store, pool.keys)) == []
    assert metric(pool, "missed_wakeups") == 0
