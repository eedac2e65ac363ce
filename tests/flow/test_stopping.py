"""Whoever is cancelled stops, wherever it is: a cancellation that gets lost is a process that never ends."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_control.scheduler.process import Scheduler
from sagellm_control.scheduler.settings import SchedulerSettings
from sagellm_control.store.connect import Store, open_store
from sagellm_control.store.settings import RedisSettings

TURNS = range(12)
"""Of the event loop, from the end of one command to the cancellation: by then the next one has been sent."""


async def test_a_command_never_swallows_a_cancellation(store: Store) -> None:
    """In Python 3.11, ``asyncio.wait_for`` does, if what it waits for is ready when the cancellation comes."""
    answered = asyncio.Event()

    async def work() -> None:
        while True:
            await store.commands.ping()
            answered.set()

    for turns in TURNS:
        for late in (False, True):
            task = asyncio.create_task(work())
            answered.clear()
            await answered.wait()
            await _cancel_after(turns, task, late=late)


async def test_a_scheduler_stops_whatever_it_is_doing(redis_settings: RedisSettings) -> None:
    async with open_store(redis_settings) as store:
        await store.commands.sadd(store.keys.pools(), "some-model")
        for turns in range(0, 3000, 37):
            scheduler = Scheduler(store, SchedulerSettings(sweep_s=0.001))
            await _cancel_after(turns, asyncio.create_task(scheduler.run()), late=bool(turns % 2))


async def _cancel_after(turns: int, task: asyncio.Task[None], *, late: bool) -> None:
    """``late``: at the end of a turn of the loop, behind what else became ready in it."""
    for _ in range(turns):
        await asyncio.sleep(0)
    if late:
        asyncio.get_running_loop().call_soon(task.cancel)
    else:
        task.cancel()
    done, _ = await asyncio.wait({task}, timeout=20)
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=20)
        pytest.fail(f"cancelled after {turns} turns of the event loop, it went on")
    assert task.cancelled()
