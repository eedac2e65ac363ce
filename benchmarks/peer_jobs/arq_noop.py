"""``python -m benchmarks.peer_jobs.arq_noop REDIS_URL JOBS``: one arq worker."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from arq import create_pool  # pyright: ignore[reportMissingImports]  # lives in the peers' venv
from arq.connections import RedisSettings  # pyright: ignore[reportMissingImports]
from arq.worker import Worker, func  # pyright: ignore[reportMissingImports]

from .counting import Counting

AT_ONCE = 100
"""Jobs under way; the default of 10 is slower."""


async def main(url: str, jobs: int) -> None:
    counting = Counting(jobs)

    async def noop(ctx: dict[str, Any]) -> None:
        counting.done()

    redis = await create_pool(RedisSettings.from_dsn(url))
    for at in range(0, jobs, AT_ONCE):
        await asyncio.gather(*(redis.enqueue_job("noop") for _ in range(min(AT_ONCE, jobs - at))))
    # Without results: a no-op's is of no use to anybody, and it is faster so.
    worker = Worker(
        [func(noop, name="noop", keep_result=0)],
        redis_pool=redis,
        max_jobs=AT_ONCE,
        queue_read_limit=jobs,
        handle_signals=False,
    )
    running = asyncio.create_task(worker.async_run())
    await counting.all_done.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    counting.tell("arq", "arq", f"max_jobs={AT_ONCE}, queue_read_limit={jobs}, no results")


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
