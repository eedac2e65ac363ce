"""Programs say that they live, and what a dead one held is given back."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from sagellm_control.manager import sign_of_life
from sagellm_control.store.connect import Store, open_store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.say_alive import is_alive
from sagellm_workers.attempts import reservation
from sagellm_workers.attempts.reservation import Holder

from ..waiting import wait_until
from .conftest import Plane, StartEngine


async def test_the_places_of_a_program_that_died_are_given_back(
    planes: tuple[Plane, Plane],
    start_engine: StartEngine,
    redis_settings: RedisSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reservation, "LOOK_EVERY_S", 0.05)
    # So that the patience of seconds takes none.
    monkeypatch.setattr(reservation, "Holder", partial(Holder, monotonic=lambda: 1000 * time.monotonic()))
    here, dies = planes
    here.register("e1", await start_engine(), max_concurrent_requests=1)
    await here.ready("e1")
    await dies.ready("e1")
    assert (await dies.manager.schedule_request("r1", "t", "simulated-1")).is_scheduled
    waiting = await here.manager.schedule_request("r2", "t", "simulated-1")
    assert waiting.queue_position == 1
    holder = dies.manager._backend._engines.manager_id  # type: ignore[attr-defined]
    async with open_store(redis_settings) as store:
        monkeypatch.setattr(sign_of_life, "say_alive", _says_nothing)
        await store.commands.delete(store.keys.holder(holder))  # as it lapses when nobody renews it
    decision = await here.manager.wait_scheduled("r2", 10)
    assert decision is not None
    assert decision.engine_id == "e1"
    here.manager.complete_request("r2", "e1")
    await here.active("e1", 0)


async def _says_nothing(*_: object) -> None:
    pass


async def test_a_program_that_waits_for_what_it_has_to_write_says_that_it_lives(
    planes: tuple[Plane, Plane], redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = planes
    engines = here.manager._backend._engines  # type: ignore[attr-defined]
    stuck = asyncio.Event()

    async def hang(_: Store) -> None:
        stuck.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(engines, "flush", hang)
    await stuck.wait()
    async with open_store(redis_settings) as store:
        await store.commands.delete(store.keys.holder(engines.manager_id))
        await wait_until(lambda: is_alive(store, engines.manager_id), what="it has said so again")
    monkeypatch.undo()
