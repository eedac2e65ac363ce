"""Redis takes nothing more: its memory is full, or its disk, or its replicas are gone. What was accepted still ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.exceptions import OutOfMemoryError, RedisError

from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.scheduler.pool_scheduler import PoolScheduler
from sagellm_control.scheduler.settings import SchedulerSettings
from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.accept import Accepted, Proposal
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.listen import announce_listener, note_orphan
from sagellm_control.store.steps.say_alive import is_alive, say_alive
from sagellm_workers.attempts.reservation import Holder
from sagellm_workers.pairs.prompt import Prompts

from ..clock import Clock
from ..flow.asking import CHAT_PATH, chat, error_of, expected_text
from ..flow.conftest import StartEngine
from ..flow.in_process import GATEWAY, InProcessSystem, in_process_system
from ..leaks import namespace_keys
from ..pool_driver import PoolDriver
from ..store.at_once import CHARGE, fair_rules
from ..waiting import wait_until
from ..workers.assignments import assignment
from .test_redis_away import whole_text


@pytest.fixture
async def own(server: EmbeddedValkey) -> AsyncGenerator[PoolDriver, None]:
    """A pool on a server of the test's own."""
    clock = Clock()
    store = Store(RedisSettings(url=server.url), now=clock)
    yield PoolDriver(store, clock, "m")
    await store.close()


@asynccontextmanager
async def full(store: Store) -> AsyncGenerator[None, None]:
    """Every byte that the server has is in use."""
    await store.commands.config_set("maxmemory", 1)
    try:
        yield
    finally:
        await store.commands.config_set("maxmemory", 0)


async def test_with_full_memory_nothing_is_accepted_and_nothing_half_written(own: PoolDriver) -> None:
    before = await namespace_keys(own.store)
    async with full(own.store):
        with pytest.raises(OutOfMemoryError):
            await own.accept("a", "b")
    assert await namespace_keys(own.store) == before
    assert await own.counters() == {}
    await own.accept("a", "b")
    assert await own.counters() == {"accepted": 2}


@pytest.mark.parametrize("proposed", [False, True])
async def test_with_full_memory_a_retry_is_still_recognised(own: PoolDriver, proposed: bool) -> None:
    await own.engine()
    rules, proposal = await fair_rules(own), Proposal(0.0, "e1", charge=CHARGE)
    await own.accept_at_once({"a": proposal}, rules=rules)
    async with full(own.store):
        if proposed:
            (again,) = (await own.accept_at_once({"a": proposal}, rules=rules)).results
        else:
            (again,) = await own.accept("a")
    assert isinstance(again, Accepted)


async def test_with_full_memory_every_other_step_goes_on(own: PoolDriver) -> None:
    await own.engine("e1", slots=4)
    await own.accept("a", "b", "c", "d")
    async with full(own.store):
        taken = await own.take()
        assert (await own.admit(*(own.admission(entry) for entry in taken.arrivals))).results == ["waiting"] * 4
        placed = await own.assign(*(Move(request_id, 0, "e1") for request_id in "abc"))
        assert placed.results == ["assigned"] * 3
        assert await own.claim("a") == "running"
        assert await own.append("a", 1)
        assert await own.finish("a", 2)
        assert await own.requeue("b") == "waiting"
        await announce_listener(own.store, "gateway", 1000)
        await note_orphan(own.store, own.name, "c", own.clock.now_ms)
        await say_alive(own.store, "program")
        assert await is_alive(own.store, "program")
        # A worker and a scheduler that start now are what makes room again.
        await own.engine("e2")
        scheduler = PoolScheduler(own.store, own.name, "late", SchedulerSettings(policy="fifo"))
        await scheduler.prepare()
    assert await own.counters() == {"accepted": 4, "completed": 1, "requeued": 1}


async def test_who_cannot_say_that_it_lives_is_not_gone(own: PoolDriver) -> None:
    """A server whose replicas are gone can be read and takes no writes."""
    holder = Holder(own.store, "program", monotonic=lambda: own.clock.now_ms / 1000)
    assert not await holder.has_gone()
    await own.store.commands.config_set("min-replicas-to-write", 1)
    with pytest.raises(RedisError, match="NOREPLICAS"):
        await say_alive(own.store, "program")
    own.clock.advance(60_000)
    assert not await holder.has_gone()
    await own.store.commands.config_set("min-replicas-to-write", 0)
    assert not await holder.has_gone()
    own.clock.advance(60_000)
    assert await holder.has_gone()


async def test_with_full_memory_the_prompt_of_an_accepted_request_is_read(own: PoolDriver) -> None:
    """Else every place of an engine that decodes would wait for memory, and nothing would end that frees any."""
    await own.engine()
    await own.running("a")
    prompts = Prompts(own.store, own.name)
    async with full(own.store), asyncio.timeout(30):
        await prompts.order(assignment("a")).submit(b"{}")
    assert len((await own.take()).arrivals) == 1


async def test_a_gateway_says_when_to_come_back_while_running_answers_end(
    start_engine: StartEngine, server: EmbeddedValkey
) -> None:
    engine = await start_engine(tpot_ms=20)
    redis = RedisSettings(url=server.url)
    async with in_process_system(redis, [engine.url]) as system:
        asking = asyncio.create_task(whole_text(system, chat("to the end", max_tokens=40, stream=True)))
        await engine.until(running=1)
        async with full(system.store):
            await refused(system)
            assert await asking == expected_text("to the end", 40)
        assert await whole_text(system, chat("again", max_tokens=2)) == expected_text("again", 2)


@pytest.mark.usefixtures("short_gateway_leases")
async def test_streams_outlast_a_memory_that_is_full_for_longer_than_a_gateways_lease(
    start_engine: StartEngine, server: EmbeddedValkey
) -> None:
    engine = await start_engine(tpot_ms=50)
    redis = RedisSettings(url=server.url, command_timeout_s=1, connect_timeout_s=1)
    gateway = GATEWAY.model_copy(update={"orphan_grace_s": 0.1})
    async with in_process_system(redis, [engine.url], gateway=gateway) as system:
        streamed = chat("to the end", max_tokens=100, stream=True)
        asking = [asyncio.create_task(whole_text(system, streamed)) for _ in range(4)]
        await engine.until(running=4)
        async with full(system.store):
            await asyncio.sleep(4)  # longer than any keeper is patient
        assert await asyncio.gather(*asking) == [expected_text("to the end", 100)] * 4


async def test_a_full_disk(start_engine: StartEngine, server: EmbeddedValkey, tmp_path: Path) -> None:
    """MISCONF: the server refuses every write until it can save again. What runs waits for that."""
    engine = await start_engine(tpot_ms=20)
    redis = RedisSettings(url=server.url)
    async with in_process_system(redis, [engine.url]) as system:
        db = system.store.commands
        asking = asyncio.create_task(whole_text(system, chat("to the end", max_tokens=40, stream=True)))
        await engine.until(running=1)
        gone = tmp_path / "gone"
        gone.mkdir()
        kept = (await db.config_get("dir"))["dir"]
        await db.config_set("dir", str(gone))
        await db.config_set("save", "3600 1")
        gone.rmdir()
        await fails_to_save(system)
        await refused(system)
        await engine.until(finished=1)
        await db.config_set("save", "")
        await db.config_set("dir", kept)
        assert await asking == expected_text("to the end", 40)


async def test_without_the_replicas_that_it_must_have(start_engine: StartEngine, server: EmbeddedValkey) -> None:
    """NOREPLICAS: with ``min-replicas-to-write`` a master that lost its replicas takes no writes."""
    engine = await start_engine(tpot_ms=20)
    async with in_process_system(RedisSettings(url=server.url), [engine.url]) as system:
        asking = asyncio.create_task(whole_text(system, chat("to the end", max_tokens=40, stream=True)))
        await engine.until(running=1)
        await system.store.commands.config_set("min-replicas-to-write", 1)
        await refused(system)
        await engine.until(finished=1)
        await system.store.commands.config_set("min-replicas-to-write", 0)
        assert await asking == expected_text("to the end", 40)


async def refused(system: InProcessSystem) -> None:
    """A new request is refused, with the time to come back."""
    async with system.session.post(system.url + CHAT_PATH, json=chat()) as response:
        assert response.status == 503
        assert (await error_of(response))["code"] == "queue_unavailable"
        assert int(response.headers["Retry-After"]) >= 1


async def fails_to_save(system: InProcessSystem) -> None:
    """Make the server try, until it knows that it cannot."""
    db = system.store.commands
    try:
        await db.bgsave()
    except RedisError as error:
        assert "already in progress" in str(error)  # noqa: PT017 - anything else is a test that tests nothing

    async def failed() -> bool:
        return (await db.info("persistence"))["rdb_last_bgsave_status"] == "err"

    await wait_until(failed, what="the server cannot save")
