"""What a scheduler or a gateway reads of the engines again and again: not more than it needs, and nothing for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sagellm_control.scheduler import engine_watch as module
from sagellm_control.scheduler.engine_watch import EngineWatch
from sagellm_control.scheduler.estimates import names_of
from sagellm_control.store.connect import Store
from sagellm_control.store.inspect import engine_bounds
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.engines import renew_engine, retire_engine
from sagellm_control.wire.states import EngineState, RequestKind

from ..pool_driver import LEASE_MS, PoolDriver
from .running import schedulers
from .test_work_conserving import until_held, until_waiting

PREFIX = tuple(f"block-{n}" for n in range(4))


async def test_an_engine_that_has_gone_is_forgotten_after_a_while(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine in ("e1", "e2"):
        await pool.engine(engine)
    watch = EngineWatch(pool.store, pool.name)
    await watch.read(all_rows=True)
    for engine in ("e1", "e2"):
        watch.engines.prefixes.note(engine, PREFIX)
    await retire_engine(pool.store, pool.name, "e1", pool.worker("e1"), EngineState.STOPPED, "gone")
    await watch.read(all_rows=True)
    assert watch.engines.ready == 1
    assert "e1" in watch.engines.known, "it may come back, and what it has cached with it"
    monkeypatch.setattr(module, "ABSENT_KEPT_S", 0.0)
    await watch.read(all_rows=True)
    assert "e1" not in watch.engines.known
    assert watch.engines.prefixes.holders(PREFIX) == [("e2", len(PREFIX))]
    await pool.engine("e1")
    await watch.read(all_rows=True)
    assert watch.engines.ready == 2


async def test_what_an_engine_with_bounds_holds_is_read_with_its_room(pool: PoolDriver) -> None:
    row = await pool.engine(slots=8, kv_tokens=10_000, limit=2)
    watch = EngineWatch(pool.store, pool.name)
    await watch.read(all_rows=True)
    load = watch.engines.load_of("e1")
    assert load is not None
    assert (load.free, load.requests, load.kv_held) == (2, 0, 0)
    await pool.waiting("a")
    await pool.assign(Move("a", 0, "e1", kv_tokens=700))
    await renew_engine(pool.store, replace(row, limit=4), [("a", 1)], lease_ms=LEASE_MS)
    await watch.read()
    assert (load.free, load.requests, load.kv_held) == (3, 1, 700)


async def test_only_engines_are_asked_of_which_there_is_more_to_know(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read before each request that is left waiting, in pools of thousands."""
    for engine in ("known", "freed"):
        await pool.engine(engine, slots=8, kv_tokens=10_000)
    await pool.engine("limited", slots=8, limit=2)
    asked: list[str] = []

    async def bounds(store: Store, name: str, engines: Sequence[str]) -> dict[str, tuple[int, int | None]]:
        asked[:] = sorted(engines)
        return await engine_bounds(store, name, engines)

    monkeypatch.setattr(module, "engine_bounds", bounds)
    watch = EngineWatch(pool.store, pool.name)
    await watch.read(all_rows=True)
    await pool.waiting("a")
    await pool.assign(Move("a", 0, "freed", kv_tokens=700))
    await watch.read(all_rows=True)
    await watch.read()
    assert asked == ["limited"]
    watch.engines.set_places("freed", 8)
    await watch.read()
    assert asked == ["freed", "limited"]
    await watch.read()
    assert asked == ["limited"]


async def test_an_engine_that_comes_back_as_another_is_not_taken_for_what_it_was(pool: PoolDriver) -> None:
    await pool.engine("e1", models=("lora",))
    async with schedulers(pool):
        await retire_engine(pool.store, pool.name, "e1", pool.worker("e1"), EngineState.STOPPED, "")
        await pool.accept("tuned", model="lora")
        await until_waiting(pool, "tuned")
        await pool.engine("e1")
        await pool.accept("plain")
        await until_held(pool, "e1", "plain")
        await until_waiting(pool, "tuned")
        await pool.engine("e2", models=("lora",))
        await until_held(pool, "e2", "tuned")


async def test_a_kind_that_no_engine_takes_is_looked_for_among_the_new_ones(pool: PoolDriver) -> None:
    # One that has just been registered: the engines known so far would only refuse it.
    await pool.engine("text", slots=4, kinds=("chat", "completion"))
    async with schedulers(pool):
        await pool.accept("chat")
        await until_held(pool, "text", "chat")
        await pool.engine("vectors", slots=4, kinds=("embedding",))
        await pool.accept("vector", kind=RequestKind.EMBEDDING)
        await until_held(pool, "vectors", "vector")
        await pool.accept("again")
        await until_held(pool, "text", "again", "chat")


async def test_where_all_engines_are_alike_they_say_what_they_do_not_take(pool: PoolDriver) -> None:
    await pool.engine("text", slots=4, kinds=("chat", "completion"))
    async with schedulers(pool):
        await pool.accept("vector", kind=RequestKind.EMBEDDING)
        await until_held(pool, "text", "vector")


async def test_very_many_lengths_are_read_less_often(pool: PoolDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LENGTHS_A_SECOND", 1)
    watch = EngineWatch(pool.store, pool.name)
    await watch.sweep()

    async def known(tokens: int) -> float:
        of = dict.fromkeys(names_of("m", "t", 0), f"64 {tokens}")
        await pool.store.commands.hset(pool.keys.lengths, mapping=of)
        await watch.sweep()
        return watch.estimates.output_tokens("m", "t", 0)

    first = await known(1000)
    assert first > 500, "there were none, so that they are read at once"
    assert await known(10) == first, "three are read every three seconds"
    watch._lengths_due_at = 0.0
    assert await known(10) < 100


async def test_whoever_was_away_for_long_knows_all_placements_before_he_decides(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_PLACED", 3)
    await pool.engine()
    watch = EngineWatch(pool.store, pool.name)
    await watch.read(all_rows=True)
    await watch.follow_placements()
    for number in range(9):
        await pool.store.commands.xadd(pool.keys.placements, {"1": f"e1 {number}"})
    await watch.follow_placements()
    assert [watch.engines.prefixes.depth("e1", [str(number)]) for number in range(9)] == [1] * 9
