"""Whatever somebody writes into the shared state, no process dies of it, and what is fine goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.accept import AcceptLimits, accept
from sagellm_control.store.steps.engines import drain_engine
from sagellm_workers.http.transport import engine_client
from sagellm_workers.serving.adoption import Adopter

from ..flow.asking import CHAT_PATH, MODEL, chat, chat_bytes, expected_text
from ..flow.conftest import start_engine as start_engine
from ..flow.in_process import GATEWAY, SCHEDULER, WORKER, InProcessSystem, in_process_system
from ..leaks import delete_namespace
from ..pool_driver import new_request
from ..waiting import wait_until
from .garbage import GHOST, TARGETS, VICTIMS, Garbage, garbage

BOUNDED = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
async def system(redis_settings: RedisSettings, start_engine: Any) -> AsyncGenerator[InProcessSystem, None]:
    """A system with a worker that also adopts; its namespace is emptied at the end."""
    engine = await start_engine()
    scheduler = SCHEDULER.model_copy(update={"sweep_s": 0.1, "reclaim_idle_s": 0.2})
    gateway = GATEWAY.model_copy(update={"request_timeout_s": 10.0})
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(
            in_process_system(redis_settings, [engine.url], gateway=gateway, scheduler=scheduler)
        )
        client = await stack.enter_async_context(engine_client())
        adopting = asyncio.create_task(Adopter(system.store, client, WORKER).run(stop))
        yield system
        await clean_up(system.store)
        assert not adopting.done(), adopting.exception()
        stop.set()
        await adopting
    store = Store(redis_settings)
    await delete_namespace(store)
    await store.close()


async def clean_up(store: Store) -> None:
    """What must not be carried over into the next example: victims, ghosts, and settings."""
    keys = store.keys.pool(MODEL)
    await store.commands.delete(keys.settings, keys.registrations, keys.engine(GHOST))
    await store.commands.zrem(keys.expiries, *VICTIMS)
    await store.commands.zrem(keys.orphans, *VICTIMS)
    for victim in VICTIMS:
        await store.commands.delete(keys.record(victim), keys.body(victim), keys.output(victim))


async def served(system: InProcessSystem, text: str) -> None:
    async with system.session.post(system.url + CHAT_PATH, json=chat(text, max_tokens=3)) as response:
        answer = await response.json()
        assert response.status == 200, answer
        assert answer["choices"][0]["message"]["content"] == expected_text(text, 3)


async def throw(system: InProcessSystem, thrown: list[Garbage]) -> None:
    """Let some requests wait, throw garbage among them, and see whether a good one is served behind it."""
    store = system.store
    (engine,) = [v.engine_id for v in await system.engine_views() if v.url == system.engines[0]]
    await drain_engine(store, MODEL, engine)
    victims = [new_request(victim, MODEL, body=chat_bytes(victim, max_tokens=2)) for victim in VICTIMS]
    await accept(store, MODEL, victims, AcceptLimits(without_engine=True))

    async def all_wait() -> bool:
        waiting = await store.commands.zrange(store.keys.pool(MODEL).waiting, 0, -1)
        return {victim.encode() for victim in VICTIMS} <= set(waiting)

    await wait_until(all_wait, what="the victims wait")
    for one in thrown:
        await one.write(store)
    await drain_engine(store, MODEL, engine, drain=False)
    await served(system, "is anybody there")
    await clean_up(store)


@pytest.mark.parametrize("target", sorted(TARGETS))
async def test_garbage_of_one_kind(system: InProcessSystem, target: str) -> None:
    @BOUNDED
    @given(thrown=st.lists(garbage, min_size=3, max_size=6))
    def collect(thrown: list[Garbage]) -> None:
        chosen.append([Garbage(target, one.fields, one.member, one.score, one.number) for one in thrown])

    chosen: list[list[Garbage]] = []
    collect()
    for thrown in chosen:
        await throw(system, thrown)
