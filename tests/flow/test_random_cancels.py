"""Cancels at random moments: whatever a request was doing, it ends once and leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from sagellm_control.client import QueueClient
from sagellm_control.store.inspect import pool_depth
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.mend import census
from sagellm_control.wire.event import END, Ending
from sagellm_control.wire.states import Outcome, RequestState

from ..scale import scaled
from .asking import MODEL, chat
from .conftest import StartEngine, StartSystem

SEED = 20_261_122
AT_ONCE = 150
"""More than there are places, so that some wait."""
LONGEST_S = 0.25
"""Some are cancelled by time: before a scheduler has seen them, or while they wait; others in mid-answer or later."""


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
        after_events = dice.choice([0, 0, 1, 3, 100])
        async with turns:
            submitted = await queue.submit(MODEL, body, request_id=f"r{number}", stream=after_events > 0)
            result = asyncio.create_task(outcome_of(queue, submitted.request_id, after_events))
            if not after_events:
                await asyncio.wait({result}, timeout=wait_s)
                await cancel(queue, submitted.request_id)
            outcomes[await result] += 1

    async def outcome_of(queue: QueueClient, request_id: str, after_events: int) -> Outcome:
        """Read the answer, and cancel it after so many events, or after its end."""
        seen = 0
        async for event in queue.stream(request_id):
            seen += 1
            ended = event.type == END
            if after_events and (seen == after_events or ended):
                await cancel(queue, request_id)
            if ended:
                return Ending.decode(event.payload).outcome
        raise AssertionError("a stream without an end")

    async def cancel(queue: QueueClient, request_id: str) -> None:
        state = await system.store.commands.hget(system.store.keys.pool(MODEL).record(request_id), "state")
        found[state.decode()] += 1
        await queue.cancel(request_id)

    count = scaled(1000)
    async with QueueClient.connect(redis_settings) as queue:
        await asyncio.gather(*(ask(queue, number) for number in range(count)))
    assert outcomes.total() == count
    assert outcomes.keys() == {Outcome.COMPLETED, Outcome.CANCELLED}
    assert found.keys() >= {RequestState.RUNNING, RequestState.FINISHED}, f"no variety: {found}"
    assert found.keys() & {RequestState.QUEUED, RequestState.WAITING}, f"no variety: {found}"
    await system.until_idle()
    for engine in engines:
        await engine.until(running=0, waiting=0)
    names = [view.engine_id for view in await system.engine_views()]
    counted = await census(system.store, MODEL, names)
    assert (counted.living, counted.placed) == (0, 0)
    depth = await pool_depth(system.store, MODEL)
    assert (depth.counters["accepted"], depth.open_engines) == (count, 3)
    assert sum(depth.counters.get(outcome, 0) for outcome in Outcome) == count
