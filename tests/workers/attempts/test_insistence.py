"""What Redis refuses for good stops nobody else; what passes is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from sagellm_control.store.connect import Store
from sagellm_workers.attempts import insistence
from sagellm_workers.attempts.insistence import is_final, write_until_taken
from sagellm_workers.attempts.outbox import Outbox

from ...pool_driver import PoolDriver
from ...waiting import wait_until
from ..serving.test_assigned_reader import InstantEngine, reading

PASSING: list[Exception] = [
    OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    ReadOnlyError("You can't write against a read only replica."),
    BusyLoadingError("Redis is loading the dataset in memory"),
    ClusterDownError("The cluster is down"),
    NoScriptError("No matching script."),
    ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
    ResponseError("BUSY Redis is busy running a script."),
    ResponseError("NOREPLICAS Not enough good replicas to write."),
    ConnectionError("gone"),
    OSError("gone"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: f"{type(error).__name__} {str(error)[:8]}")
async def test_what_passes_is_repeated(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insistence, "FIRST_RETRY_S", 0.001)
    tries = 0

    async def write(items: Sequence[int]) -> list[int]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise error
        return [-item for item in items]

    assert not is_final(error)
    assert await write_until_taken("a test", [1, 2], write) == [-1, -2]
    assert tries == 3


async def test_what_is_refused_for_good_is_given_up_alone() -> None:
    async def write(items: Sequence[int]) -> list[int]:
        if 2 in items:
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return [-item for item in items]

    assert await write_until_taken("a test", [1, 2, 3], write) == [-1, None, -3]


async def test_a_real_server_says_what_is_final(store: Store, pool: PoolDriver) -> None:
    await store.commands.set(pool.keys.record("a"), "no hash")
    with pytest.raises(RedisError) as told:
        await store.commands.hget(pool.keys.record("a"), "state")
    assert is_final(told.value)
    await store.commands.delete(pool.keys.record("a"))


async def test_a_broken_output_log_stops_no_other_report(store: Store, pool: PoolDriver) -> None:
    engine = InstantEngine()
    row = await pool.engine(slots=4)
    async with reading(store, row, engine) as outbox:
        await pool.assigned("a", "b", stream=True)
        await wait_until(lambda: sorted(engine.calls) == ["a", "b"], what="both run")
        await store.commands.set(pool.keys.output("a"), "no stream")
        # So that neither needs a claim.
        await wait_until(lambda: all(outbox.is_reporting((name, 1)) for name in "ab"), what="both have ended")
        writing = asyncio.create_task(outbox.run())
        await wait_until(lambda: _finished(pool, "b"), what="the other one is finished")
        await _written(outbox)
        writing.cancel()
        await asyncio.wait([writing])
    assert await pool.state("a") == "finished", "in a log that was made anew"


async def _written(outbox: Outbox) -> None:
    async with asyncio.timeout(20):
        await outbox.written()


async def _finished(pool: PoolDriver, request_id: str) -> bool:
    return await pool.state(request_id) == "finished"
