"""The order to read a prompt, as the worker of the decoding engine follows it."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_control.store.steps.take import IntakeEntry
from sagellm_control.store.topology import MOST_CONNECTIONS
from sagellm_control.wire.assignment import Assignment
from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import Outcome
from sagellm_workers.pairs import prompt as prompt_module
from sagellm_workers.pairs.prompt import Prompt, Prompts

from ...pool_driver import PoolDriver
from ...waiting import wait_until
from ..assignments import assignment

REFUSED = Ending(Outcome.REFUSED, 400, body=b'{"error":{}}')


async def ordered(pool: PoolDriver, prompts: Prompts) -> tuple[Prompt, IntakeEntry]:
    await pool.engine("decodes")
    await pool.running("r", engine="decodes")
    of_request: Assignment = assignment("r")
    order = prompts.order(of_request)
    await order.submit(b"{}")
    (entry,) = (await pool.take()).arrivals
    return order, entry


async def test_its_place_and_its_end_in_one_read(pool: PoolDriver) -> None:
    """A prefilling engine that refuses at once, while the other worker was busy."""
    prompts = Prompts(pool.store, pool.name)
    order, entry = await ordered(pool, prompts)
    await pool.engine("reads")
    await pool.admit(pool.admission(entry, engine="reads"))
    request_id = entry.fields["id"]
    assert await pool.claim(request_id, engine="reads") == "running"
    assert await pool.append(request_id, payload=b'data: {"bootstrap_room":1}\n\n', engine="reads")
    assert await pool.finish(request_id, 2, REFUSED, engine="reads")
    async with asyncio.timeout(10):
        assert await order.meeting_place() == {"bootstrap_room": 1}
        assert await order.ended() == REFUSED
    await prompts.close()


async def test_one_that_a_failover_lost_has_ended(pool: PoolDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_module, "BLOCK_MS", 10)
    prompts = Prompts(pool.store, pool.name)
    order, entry = await ordered(pool, prompts)
    request_id = entry.fields["id"]
    await pool.store.commands.delete(pool.keys.record(request_id), pool.keys.body(request_id))
    async with asyncio.timeout(10):
        assert await order.meeting_place() is None
    assert order.ending is not None
    assert order.ending.outcome is Outcome.FAILED
    await prompts.close()


async def test_none_stands_in_line_for_the_others(pool: PoolDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many places the engine has, or gets: each waits on a connection of its own."""
    monkeypatch.setattr(prompt_module, "BLOCK_MS", 3_600_000)
    prompts, number = Prompts(pool.store, pool.name), 2 * MOST_CONNECTIONS
    waiting = [asyncio.create_task(prompts.order(assignment(f"r{n}")).meeting_place()) for n in range(number)]
    connections = prompts.reads.connection_pool._in_use_connections
    await wait_until(lambda: len(connections) == number, what="all of them wait")
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await prompts.close()
