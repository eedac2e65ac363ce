"""``python -m benchmarks.peer_jobs.saq_noop REDIS_URL JOBS``: one SAQ worker."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from saq import Queue, Worker  # pyright: ignore[reportMissingImports]  # lives in the peers' venv

from .counting import Counting

AT_ONCE = 100
"""Jobs under way; the default of 10 is slower."""


async def main(url: str, jobs: int) -> None:
    counting = Counting(jobs)

    async def noop(ctx: dict[str, Any]) -> None:
        counting.done()

    queue = Queue.from_url(url)
    await queue.connect()
    for at in range(0, jobs, AT_ONCE):
        # A ttl of -1: the finished job is deleted at once.
        await asyncio.gather(*(queue.enqueue("noop", ttl=-1) for _ in range(min(AT_ONCE, jobs - at))))
    worker = Worker(queue, functions=[("noop", noop)], concurrency=AT_ONCE)
    running = asyncio.create_task(worker.start())
    await counting.all_done.wait()
    await worker.stop()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    counting.tell("SAQ", "saq", f"concurrency={AT_ONCE}, no results")


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
