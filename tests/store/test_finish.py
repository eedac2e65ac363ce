"""finish: attempts end with the one outcome of their request."""

from __future__ import annotations

import pytest

from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.engines import drain_engine
from sagellm_control.store.steps.finish import Finish, finish
from sagellm_control.wire.event import END, Ending, Event, read_frames
from sagellm_control.wire.states import Outcome

from ..pool_driver import DONE, PoolDriver


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.REFUSED, Outcome.CANCELLED, Outcome.EXPIRED])
@pytest.mark.parametrize("state", ["assigned", "running"])
async def test_the_outcome_is_recorded_and_the_place_is_free(pool: PoolDriver, state: str, outcome: Outcome) -> None:
    await pool.engine()
    await getattr(pool, state)("a")
    pool.clock.advance(50)
    assert await pool.finish("a", 1, Ending(outcome, 200, body=b"{}"))
    record = await pool.record("a")
    assert (record["state"], record["outcome"], record["engine"]) == ("finished", outcome, "e1")
    assert float(record["finished_ms"]) == pool.clock.now_ms
    assert "entry" not in record
    assert await pool.holds() == set()
    assert await pool.assigned_entries() == []
    assert await pool.room() == {"e1": 1}
    assert await pool.counters() == {"accepted": 1, outcome: 1}
    assert not await pool.store.commands.exists(pool.keys.body("a"))
    for key in (pool.keys.record("a"), pool.keys.output("a")):
        assert 0 < await pool.store.commands.pttl(key) <= 600_000


@pytest.mark.parametrize("output", [False, True])
async def test_one_that_no_claim_was_written_of_began_when_its_worker_had_a_slot_for_it(
    pool: PoolDriver, output: bool
) -> None:
    await pool.engine(prefetch=1)
    await pool.assigned("a", slo_ms=1000)
    assigned_ms = pool.clock.now_ms
    pool.clock.advance(5008)
    if output:
        await pool.append("a", 1)
    pool.clock.advance(60_000)  # Redis was away
    done = Finish("a", 1, 2, DONE, first_ms=8.0, held_ms=5000.0)
    assert await finish(pool.store, pool.name, "e1", pool.worker("e1"), [done]) == [True]
    assert float((await pool.record("a"))["started_ms"]) == assigned_ms + 5000
    assert (await pool.counters())["slo_missed"] == 1


async def test_its_client_is_told_behind_its_output(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.append("a", 1)
    async with pool.store.subscriber().pubsub() as listener:
        await listener.subscribe("inbox-of-a")
        await listener.get_message(timeout=5)
        await pool.finish("a", 2)
        message = await listener.get_message(ignore_subscribe_messages=True, timeout=5)
        assert message is not None
        assert read_frames(message["data"]) == [Event("a", 1, 2, END, DONE.encode())]
    assert [event.position for event in await pool.events("a")] == [(1, 1), (1, 2)]
    assert await pool.ending("a") == DONE


async def test_finished_twice_it_ended_once(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    assert await pool.finish("a")
    before = await pool.record("a")
    assert await pool.finish("a", 1, Ending(Outcome.FAILED, 500))
    assert await pool.record("a") == before
    assert len(await pool.events("a")) == 1
    assert await pool.counters() == {"accepted": 1, "completed": 1}


async def test_room_is_announced_if_somebody_waits(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.running("a", "b")
    await pool.waiting("c")
    assert await pool.freed() == []
    await pool.finish("a")
    assert await pool.freed() == [("e1", 1)]


async def test_room_is_not_announced_if_nobody_waits(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.accept("not-ranked-yet")
    await pool.finish("a")
    assert await pool.freed() == []


async def test_a_draining_engine_has_no_room_to_announce(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.waiting("b")
    await drain_engine(pool.store, pool.name, "e1")
    assert await pool.finish("a")
    assert (await pool.freed(), await pool.room()) == ([], {})


async def test_a_batch(pool: PoolDriver) -> None:
    await pool.engine(slots=3)
    await pool.running("a", "b", "c")
    await pool.waiting("d")
    items = [Finish("a", 1, 1, DONE), Finish("b", 2, 1, DONE), Finish("never-heard-of", 1, 1, DONE)]
    items.append(Finish("c", 1, 1, Ending(Outcome.REFUSED, 400)))
    assert await finish(pool.store, pool.name, "e1", "w-e1", items) == [True, False, False, True]
    assert await pool.holds() == {"b"}
    assert await pool.freed() == [("e1", 2)]


async def test_a_later_attempt_continues_the_log(pool: PoolDriver) -> None:
    await pool.engine("e1")
    await pool.engine("e2")
    await pool.running("a", engine="e1")
    await pool.requeue("a", engine="e1")
    await pool.assign(Move("a", 1, "e2"))
    assert await pool.append("a", 1, attempt=2, engine="e2")
    assert await pool.finish("a", 2, attempt=2, engine="e2")
    assert [event.position for event in await pool.events("a")] == [(2, 1), (2, 2)]
