"""register and renew: a worker session takes an engine's lease, and keeps it while it lives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sagellm_control.store.inspect import engine_rows
from sagellm_control.store.steps import engines
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.engines import (
    Held,
    Renewal,
    Retired,
    drain_engine,
    register_engine,
    renew_engine,
    retire_engine,
)
from sagellm_control.store.steps.requeue import Cause, requeue
from sagellm_control.wire.states import EngineState, Outcome

from ..lapsed import lapsed_leases
from ..pool_driver import LEASE_MS, PoolDriver


async def lease_until(pool: PoolDriver, engine: str = "e1") -> float | None:
    return await pool.store.commands.zscore(pool.keys.leases, engine)


async def test_a_new_engine(pool: PoolDriver) -> None:
    row = await pool.engine(slots=4, prefetch=1, models=("lora",), url="http://x", kind="vllm", version="0.11")
    db = pool.store.commands
    assert await engine_rows(pool.store, pool.name, ["e1"]) == [row]
    assert await db.smembers(pool.keys.engines) == {b"e1"}
    assert await db.smembers(pool.store.keys.pools()) == {pool.name.encode()}
    expected = {pool.name.encode(): pool.name.encode(), b"lora": pool.name.encode()}
    assert await db.hgetall(pool.store.keys.models()) == expected
    assert await lease_until(pool) == pool.clock.now_ms + LEASE_MS
    assert await pool.room() == {"e1": 5}
    assert await db.pttl(pool.keys.engine("e1")) == -1
    groups = await db.xinfo_groups(pool.keys.assigned("e1"))
    assert [group["name"] for group in groups] == [b"workers"]


@pytest.mark.parametrize(
    ("state", "room"),
    [(EngineState.READY, {"e1": 1}), (EngineState.STARTING, {}), (EngineState.DRAINING, {}), (EngineState.ERROR, {})],
)
async def test_only_a_ready_engine_has_room(pool: PoolDriver, state: EngineState, room: dict[str, int]) -> None:
    await pool.engine(state=state, reason="why")
    assert await pool.room() == room
    (row,) = await engine_rows(pool.store, pool.name, ["e1"])
    assert (row.state, row.reason) == (state, "why")


@pytest.mark.parametrize("passed_ms", [0, LEASE_MS - 1, LEASE_MS, 5 * LEASE_MS])
async def test_a_holder_keeps_it_until_a_keeper_takes_it(pool: PoolDriver, passed_ms: int) -> None:
    """Lapsed or not: Redis may have been away, and it may be about to renew it."""
    row = await pool.engine()
    pool.clock.advance(passed_ms)
    second = replace(row, worker="w-second")
    assert await register_engine(pool.store, second, lease_ms=LEASE_MS) == Held("w-e1")
    assert await renew_engine(pool.store, row, [], lease_ms=LEASE_MS) is not None
    await pool.second_worker()
    (found,) = await engine_rows(pool.store, pool.name, ["e1"])
    assert found.worker == "w-second"


async def test_what_a_dead_holder_left_goes_back(pool: PoolDriver) -> None:
    await pool.engine(slots=3)
    await pool.running("a")
    await pool.assigned("b")
    await pool.running("c")
    await pool.append("c")
    await pool.second_worker(slots=3)
    assert await pool.waiting_ids() == ["a", "b"]
    assert [(await pool.record(r))["lapses"] for r in "ab"] == ["1", "1"]
    assert (await pool.ending("c")).code == "engine_lost"
    assert (await pool.holds(), await pool.assigned_entries()) == (set(), [])
    assert await pool.room() == {"e1": 3}


async def test_what_another_keeper_gave_back_meanwhile_is_not_counted(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def after_the_other(*what: Any) -> list[str]:
        assert await requeue(*what) == ["waiting", "waiting"]
        return await requeue(*what)

    await pool.engine("e1", slots=2)
    await pool.running("a", "b")
    pool.clock.advance(LEASE_MS)
    monkeypatch.setattr(engines, "requeue", after_the_other)
    retired = await retire_engine(pool.store, pool.name, "e1", "", EngineState.ERROR, "lapsed")
    assert retired == Retired(had_holder=True, given_back=0)


async def test_a_notice_for_a_dead_holder_is_not_given_to_the_next(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await cancel(pool.store, pool.name, "a")
    await pool.second_worker()
    assert await pool.assigned_entries() == []
    assert (await pool.record("a"))["outcome"] == "cancelled"


async def test_a_new_engine_is_announced_if_somebody_waits(pool: PoolDriver) -> None:
    await pool.waiting("a")
    await pool.engine(slots=2)
    assert await pool.freed() == [("e1", 2)]


async def test_a_new_engine_is_not_announced_if_nobody_waits(pool: PoolDriver) -> None:
    await pool.engine()
    assert await pool.freed() == []


async def test_a_drain_outlives_the_worker(pool: PoolDriver) -> None:
    await pool.engine()
    await drain_engine(pool.store, pool.name, "e1")
    await retire_engine(pool.store, pool.name, "e1", "w-e1", EngineState.STOPPED, "")
    await pool.engine(worker="w-second")
    (row,) = await engine_rows(pool.store, pool.name, ["e1"])
    assert (row.state, await pool.room()) == (EngineState.DRAINING, {})
    await drain_engine(pool.store, pool.name, "e1", drain=False)
    assert await pool.room() == {"e1": 1}


async def test_renewed_it_lasts_longer(pool: PoolDriver) -> None:
    row = await pool.engine()
    pool.clock.advance(LEASE_MS - 1)
    assert await renew_engine(pool.store, row, [], lease_ms=LEASE_MS) == Renewal(draining=False, attempts=[])
    assert await lease_until(pool) == pool.clock.now_ms + LEASE_MS
    pool.clock.advance(LEASE_MS - 1)
    assert await lapsed_leases(pool) == []


async def test_late_but_still_the_owner(pool: PoolDriver) -> None:
    row = await pool.engine()
    pool.clock.advance(5 * LEASE_MS)
    assert await lapsed_leases(pool) == ["e1"]
    assert await renew_engine(pool.store, row, [], lease_ms=LEASE_MS) is not None
    assert await lapsed_leases(pool) == []


@pytest.mark.parametrize("lost_to", ["retired", "another session", "forgotten"])
async def test_a_lost_lease_cannot_be_renewed(pool: PoolDriver, lost_to: str) -> None:
    row = await pool.engine()
    pool.clock.advance(LEASE_MS)
    match lost_to:
        case "retired":
            await retire_engine(pool.store, pool.name, "e1", "", EngineState.ERROR, "")
        case "another session":
            await pool.second_worker()
        case _:
            await pool.store.commands.delete(pool.keys.engine("e1"), pool.keys.assigned("e1"))
    leases = await pool.store.commands.zrange(pool.keys.leases, 0, -1, withscores=True)
    room = await pool.room()
    assert await renew_engine(pool.store, row, [], lease_ms=LEASE_MS) is None
    assert await pool.store.commands.zrange(pool.keys.leases, 0, -1, withscores=True) == leases
    assert await pool.room() == room
    if lost_to == "forgotten":
        assert not await pool.store.commands.exists(pool.keys.engine("e1"))


async def test_a_renewal_tells_what_became_of_the_attempts(pool: PoolDriver) -> None:
    row = await pool.engine(slots=5)
    await pool.running("runs", "stopped", "given-back", "finished")
    await pool.assigned("assigned")
    await cancel(pool.store, pool.name, "stopped", Outcome.EXPIRED)
    await pool.requeue("given-back")
    await pool.finish("finished")
    asked = [(r, 1) for r in ("runs", "stopped", "given-back", "finished", "assigned", "unknown")] + [("runs", 2)]
    renewal = await renew_engine(pool.store, row, asked, lease_ms=LEASE_MS)
    expected = ["running", "expired", "lost", "lost", "running", "lost", "lost"]
    assert renewal == Renewal(draining=False, attempts=expected)


@pytest.mark.parametrize(
    ("before", "after", "announced"),
    [
        (EngineState.STARTING, EngineState.READY, [("e1", 1)]),
        (EngineState.ERROR, EngineState.READY, [("e1", 1)]),
        (EngineState.READY, EngineState.READY, []),
        (EngineState.READY, EngineState.ERROR, []),
    ],
)
async def test_an_engine_that_becomes_ready_is_announced(
    pool: PoolDriver, before: EngineState, after: EngineState, announced: list[tuple[str, int]]
) -> None:
    row = await pool.engine(state=before)
    await pool.waiting("a")
    await renew_engine(pool.store, replace(row, state=after, reason="so"), [], lease_ms=LEASE_MS)
    assert await pool.freed() == announced
    assert await pool.room() == ({"e1": 1} if after is EngineState.READY else {})
    (found,) = await engine_rows(pool.store, pool.name, ["e1"])
    assert (found.state, found.reason) == (after, "so")


async def test_a_renewal_tells_of_a_drain_and_does_not_undo_it(pool: PoolDriver) -> None:
    row = await pool.engine()
    await drain_engine(pool.store, pool.name, "e1")
    assert await renew_engine(pool.store, row, [], lease_ms=LEASE_MS) == Renewal(draining=True, attempts=[])
    assert await pool.room() == {}
    (found,) = await engine_rows(pool.store, pool.name, ["e1"])
    assert found.state is EngineState.DRAINING


async def test_a_wrong_note_of_the_room_heals_with_a_renewal(pool: PoolDriver) -> None:
    row = await pool.engine(slots=3)
    await pool.running("a")
    await pool.store.commands.zadd(pool.keys.room, {"e1": 0})
    await renew_engine(pool.store, row, [], lease_ms=LEASE_MS)
    assert await pool.room() == {"e1": 2}


async def test_a_holder_of_which_nothing_is_noted_is_found_again(pool: PoolDriver) -> None:
    """Somebody has deleted the lists, and its worker is gone."""
    row = await pool.engine()
    await pool.store.commands.delete(pool.keys.leases, pool.keys.engines, pool.keys.room)
    second = replace(row, worker="w-second")
    assert await register_engine(pool.store, second, lease_ms=LEASE_MS) == Held("w-e1")
    assert await lapsed_leases(pool) == []
    pool.clock.advance(LEASE_MS)
    assert await lapsed_leases(pool) == ["e1"]
    await pool.second_worker()


async def test_an_engine_is_blamed_for_the_second_worker_that_is_lost_with_a_request(pool: PoolDriver) -> None:
    """The first was lost with all that its engines ran; one that the request, or the engine, ends is lost again."""
    await pool.engine()
    await pool.running("a")
    await pool.requeue("a", Cause.LAPSED)
    assert "excluded" not in await pool.record("a")
    await pool.assign(Move("a", 1, "e1"))
    await pool.requeue("a", Cause.LAPSED, attempt=2)
    assert (await pool.record("a"))["excluded"] == "e1"
