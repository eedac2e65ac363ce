"""Schedulers that run in the test, and workers that answer everything at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sagellm_control.scheduler.pool_scheduler import PoolScheduler
from sagellm_control.scheduler.settings import SchedulerSettings
from sagellm_control.store.connect import Store
from sagellm_control.wire.assignment import Assignment, read_assigned
from sagellm_control.wire.keys import WORKER_GROUP

from ..pool_driver import PoolDriver
from ..samples import sample

NO_SWEEP_S = 60.0
"""Longer than any test: what happens then happens without the sweep."""


@asynccontextmanager
async def schedulers(pool: PoolDriver, count: int = 1, **settings: Any) -> AsyncIterator[list[PoolScheduler]]:
    """So many schedulers of the pool, each with its own connections. One that ends by itself fails the test."""
    chosen = SchedulerSettings(**({"sweep_s": NO_SWEEP_S} | settings))
    async with AsyncExitStack() as stack:
        made: list[PoolScheduler] = []
        for n in range(count):
            store = Store(pool.store.settings, now=pool.clock)
            stack.push_async_callback(store.close)
            made.append(PoolScheduler(store, pool.name, f"s{n}", chosen))
            await made[-1].prepare()
        await stack.enter_async_context(running({scheduler.consumer: scheduler.run() for scheduler in made}))
        yield made


@asynccontextmanager
async def running(loops: dict[str, Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run loops that never end by themselves; one that does fails the test with what ended it."""
    tasks = [asyncio.create_task(loop, name=name) for name, loop in loops.items()]
    try:
        yield
    finally:
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in ended:
            task.result()


class InstantWorker:
    """Finishes whatever its engine is given, one by one, and remembers the order."""

    def __init__(self, pool: PoolDriver, engine: str, answered: list[str]) -> None:
        self.pool = pool
        self.engine = engine
        self.answered = answered
        self.most_held = 0
        self._reader = pool.store.blocking()

    async def run(self) -> None:
        """Work until cancelled."""
        stream = self.pool.keys.assigned(self.engine)
        while True:
            answer = await self._reader.xreadgroup(WORKER_GROUP, "w", {stream: ">"}, count=1, block=0)
            for _, entries in answer:
                for entry_id, fields in entries:
                    await self._finish(read_assigned(entry_id, fields))

    async def _finish(self, assignment: object) -> None:
        assert isinstance(assignment, Assignment)
        self.most_held = max(self.most_held, len(await self.pool.holds(self.engine)))
        self.answered.append(assignment.request_id)
        done = await self.pool.finish(assignment.request_id, attempt=assignment.attempt, engine=self.engine)
        assert done, assignment


@asynccontextmanager
async def instant_workers(pool: PoolDriver, *engines: str) -> AsyncIterator[tuple[list[str], list[InstantWorker]]]:
    """A worker for each engine; what they answered, in the order in which they did."""
    answered: list[str] = []
    workers = [InstantWorker(pool, engine, answered) for engine in engines]
    async with running({f"worker {worker.engine}": worker.run() for worker in workers}):
        yield answered, workers


def metric(pool: PoolDriver, name: str, **labels: str) -> float:
    """A counter of the scheduler, for this pool."""
    return sample(f"sagellm_control_scheduler_{name}_total", pool=pool.name, **labels)


async def everything_is_settled(pool: PoolDriver) -> bool:
    """Nothing lies in a stream that a scheduler has to read or has read and not settled."""
    streams = (*pool.keys.intake, pool.keys.freed)
    return not any([await pool.store.commands.xlen(stream) for stream in streams])
