"""Cancels at random moments: whatever a request was doing, it ends once and leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from sagellm_control.client import QueueClient
from sagellm_control.store.inspect import pool_depth
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.mend import census
from sagellm_control.wire.states import Outcome, RequestState

from ..scale import scaled
from .asking import MODEL, chat
from .conftest import StartEngine, StartSystem

SEED = 20_261_122
AT_ONCE = 150
"""More than there are places, so that some wait."""
LONGEST_S = 0.25
"""Some are cancelled before a scheduler has seen them, some in mid-answer, some have finished before."""


async def test_cancels_at_random_moments_leave_no_reservation(
    start_engine: StartEngine, start_system: StartSystem, redis_settings: RedisSettings
) -> None:
    engines = [await start_engine(slots=8, tpot_ms=5) for _ in range(3)]
    system = await start_system(*engines, schedulers=2, worker_prefetch=4)
    dice = random.Random(SEED)
    outcomes: Counter[str] = Counter()
    found: Counter[str] = Counter()
    turns = asyncio.Semaphore(AT_ONCE)

    async def ask(queue: QueueClient, number: int) -> None:
        body, wait_s = chat(f"r{number}", max_tokens=dice.randint(1, 20)), dice.uniform(0, LONGEST_S)
        async with turns:
            submitted = await queue.submit(MODEL, body, request_id=f"r{number}", stream=bool(number % 2))
            result = asyncio.create_task(queue.result(submitted.request_id))
            await asyncio.wait({result}, timeout=wait_s)
            record = system.store.keys.pool(MODEL).record(submitted.request_id)
            found[(await system.store.commands.hget(record, "state")).decode()] += 1
            await queue.cancel(submitted.request_id)
            outcomes[(await result).ending.outcome] += 1

    count = scaled(1000)
    async with QueueClient.connect(redis_settings) as queue:
        await asyncio.gather(*(ask(queue, number) for number in range(count)))
    assert outcomes.total() == count
    assert outcomes.keys() == {Outcome.COMPLETED, Outcome.CANCELLED}
    assert found.keys() >= {RequestState.WAITING, RequestState.RUNNING, RequestState.FINISHED}, f"no variety: {found}"
    await system.until_idle()
    for engine in engines:
        await engine.until(running=0, waiting=0)
    names = [view.engine_id for view in await system.engine_views()]
    counted = await census(system.store, MODEL, names)
    assert (counted.living, counted.placed) == (0, 0)
    depth = await pool_depth(system.store, MODEL)
    assert (depth.counters["accepted"], depth.open_engines) == (count, 3)
    assert sum(depth.counters.get(outcome, 0) for outcome in Outcome) == count
