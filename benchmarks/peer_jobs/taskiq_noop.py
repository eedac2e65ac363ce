"""``python -m benchmarks.peer_jobs.taskiq_noop REDIS_URL JOBS [list]``: one taskiq-redis worker.

On a stream with acknowledgements, or with ``list`` on a plain list, where a crash loses what was taken.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from taskiq.receiver import Receiver  # pyright: ignore[reportMissingImports]  # lives in the peers' venv
from taskiq_redis import ListQueueBroker, RedisStreamBroker  # pyright: ignore[reportMissingImports]

from .counting import Counting

AT_ONCE = 100
"""Jobs under way, as the command line of taskiq has it."""


async def main(url: str, jobs: int, kind: str) -> None:
    counting = Counting(jobs)
    broker: Any = (ListQueueBroker if kind == "list" else RedisStreamBroker)(url)

    async def count() -> None:
        counting.done()

    noop = broker.task(task_name="noop")(count)

    # As a worker from the start: the group of the stream has to be there before the first job.
    broker.is_worker_process = True
    await broker.startup()
    for at in range(0, jobs, AT_ONCE):
        await asyncio.gather(*(noop.kiq() for _ in range(min(AT_ONCE, jobs - at))))
    finish = asyncio.Event()
    receiver = Receiver(broker, max_async_tasks=AT_ONCE, run_startup=False)
    running = asyncio.create_task(receiver.listen(finish))
    await counting.all_done.wait()
    finish.set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    counting.tell(f"taskiq-redis, {kind}", "taskiq-redis", f"max_async_tasks={AT_ONCE}, no results")


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), (sys.argv[3:] or ["stream"])[0]))
