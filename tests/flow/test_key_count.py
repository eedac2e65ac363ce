"""However many requests go through, nothing stays: the number of keys is what it was."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from sagellm_control.client import QueueClient
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.accept import AcceptLimits

from ..leaks import namespace_keys
from ..scale import scaled
from ..waiting import wait_until
from .asking import MODEL, chat
from .conftest import StartEngine, StartSystem
from .in_process import InProcessSystem

KEPT_MS = 6_000
"""Longer than any client is behind its answer, on a busy machine as well."""
AT_ONCE = 100


async def test_the_number_of_keys_is_what_it_was(
    start_engine: StartEngine, start_system: StartSystem, redis_settings: RedisSettings
) -> None:
    system = await start_system(await start_engine(slots=64), await start_engine(slots=64), schedulers=2)

    async def ask(queue: QueueClient, numbers: Iterator[int]) -> None:
        for number in numbers:
            submitted = await queue.submit(MODEL, chat(str(number), max_tokens=2), stream=bool(number % 2))
            if number % 7 == 0:
                await queue.cancel(submitted.request_id)
            await queue.result(submitted.request_id)

    async def ask_all(queue: QueueClient, count: int) -> None:
        numbers = iter(range(count))
        async with asyncio.TaskGroup() as clients:
            for _ in range(AT_ONCE):
                clients.create_task(ask(queue, numbers))

    async with QueueClient.connect(redis_settings, AcceptLimits(keep_result_ms=KEPT_MS)) as queue:
        await ask_all(queue, 50)
        before = await settled(system)
        streams = await entries(system)
        await ask_all(queue, scaled(1000))
        assert await settled(system) == before
        assert await entries(system) == streams


async def settled(system: InProcessSystem) -> set[str]:
    """The keys, once what has ended has expired."""

    async def none_of_a_request() -> set[str] | None:
        names = set(await namespace_keys(system.store))
        return None if any(":request:" in name for name in names) else names - {system.store.keys.gateways()}

    return await wait_until(none_of_a_request, what="all that belongs to requests has expired")


async def entries(system: InProcessSystem) -> dict[str, int]:
    """How much is in the streams and sets that stay."""
    db, keys = system.store.commands, system.store.keys.pool(MODEL)
    lengths = {name: await db.xlen(name) for name in (*keys.intake, keys.freed, keys.dead)}
    engines = [engine.decode() for engine in await db.smembers(keys.engines)]
    lengths |= {name: await db.xlen(name) for name in map(keys.assigned, engines)}
    lengths |= {name: await db.hlen(name) for name in map(keys.reservations, engines)}
    return lengths | {keys.waiting: await db.zcard(keys.waiting)}
