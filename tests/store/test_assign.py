"""assign: waiting requests go to engines, in the order of their ranks."""

from __future__ import annotations

import pytest

from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.keys import SCHEDULER_GROUP
from sagellm_control.wire.states import Outcome

from ..clock import START_MS
from ..pool_driver import PoolDriver


async def test_the_head_goes_to_its_engine(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.waiting("a", "b")
    pool.clock.advance(500)
    done = await pool.assign(Move("a", 0, "e1"))
    assert (done.results, done.room.places) == (["assigned"], {"e1": 1})
    assert await pool.waiting_ids() == ["b"]
    assert (done.room.waiting, done.room.open_engines) == (1, 1)
    (entry,) = await pool.assigned_entries()
    assert (entry["id"], entry["attempt"]) == ("a", "1")
    assert float(entry["assigned_ms"]) - float(entry["arrived_ms"]) == 501
    record = await pool.record("a")
    assert (record["state"], record["engine"], record["attempt"]) == ("assigned", "e1", "1")
    assert await pool.holds() == {"a"}
    assert await pool.room() == {"e1": 1}


async def test_several_over_several_engines(pool: PoolDriver) -> None:
    await pool.engine("e1", slots=1)
    await pool.engine("e2", slots=2)
    await pool.waiting("a", "b", "c")
    done = await pool.assign(Move("a", 0, "e2"), Move("b", 0, "e1"), Move("c", 0, "e2"))
    assert done.results == ["assigned"] * 3
    assert done.room.places == {"e1": 0, "e2": 0}
    assert (done.room.waiting, done.room.open_engines) == (0, 0)
    assert [await pool.holds(engine) for engine in ("e1", "e2")] == [{"b"}, {"a", "c"}]


async def test_stale_when_a_more_urgent_one_came_in_between(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.waiting("a", "b")
    await pool.waiting("urgent")
    await pool.store.commands.zadd(pool.keys.waiting, {"urgent": START_MS - 1})
    done = await pool.assign(Move("a", 0, "e1"), Move("b", 0, "e1"))
    assert done.results == ["stale"]
    assert await pool.waiting_ids() == ["urgent", "a", "b"]
    assert await pool.holds() == set()


async def test_stale_in_the_middle_keeps_what_was_done_before(pool: PoolDriver) -> None:
    await pool.engine(slots=3)
    await pool.waiting("a", "b", "c")
    done = await pool.assign(Move("a", 0, "e1"), Move("c", 0, "e1"), Move("b", 0, "e1"))
    assert done.results == ["assigned", "stale"]
    assert await pool.waiting_ids() == ["b", "c"]


async def test_stale_when_an_attempt_has_failed_in_between(pool: PoolDriver) -> None:
    await pool.engine("e1")
    await pool.engine("e2")
    await pool.running("a", engine="e1")
    await pool.requeue("a", Cause.FAILED, engine="e1")
    # Decided before the failure: it does not know that "e1" is excluded now.
    assert (await pool.assign(Move("a", 0, "e1"))).results == ["stale"]
    assert (await pool.assign(Move("a", 1, "e2"))).results == ["assigned"]
    assert (await pool.record("a"))["attempt"] == "2"


async def test_stale_when_another_scheduler_filled_the_engine(pool: PoolDriver) -> None:
    await pool.engine("e1", slots=1)
    await pool.engine("e2", slots=1)
    await pool.waiting("a", "b", "c")
    assert (await pool.assign(Move("a", 0, "e1"))).results == ["assigned"]
    done = await pool.assign(Move("b", 0, "e1"), Move("c", 0, "e2"))
    assert (done.results, done.room.places) == (["stale"], {"e1": 0})
    assert await pool.waiting_ids() == ["b", "c"]
    assert await pool.holds() == {"a"}


@pytest.mark.parametrize("engine", ["drained", "never-heard-of"])
async def test_an_engine_that_takes_nothing(pool: PoolDriver, engine: str) -> None:
    await pool.engine("drained")
    await pool.store.commands.hset(pool.keys.engine("drained"), "state", "DRAINING")
    await pool.waiting("a")
    done = await pool.assign(Move("a", 0, engine))
    assert (done.results, done.room.places) == (["stale"], {engine: 0})
    assert await pool.state("a") == "waiting"


async def test_one_that_no_engine_may_take_is_passed(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.waiting("a", "b", "c", "d")
    done = await pool.assign(Move("a", 0, None), Move("b", 0, "e1"), Move("c", 0, None), Move("d", 0, "e1"))
    assert done.results == ["passed", "assigned", "passed", "assigned"]
    assert await pool.waiting_ids() == ["a", "c"]


async def test_nobody_is_passed_without_being_named(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.waiting("a", "b", "c")
    done = await pool.assign(Move("a", 0, None), Move("c", 0, "e1"))
    assert done.results == ["passed", "stale"]


@pytest.mark.parametrize("choice", [None, "e1"])
async def test_a_timeout_that_passed_while_it_waited(pool: PoolDriver, choice: str | None) -> None:
    await pool.engine()
    await pool.waiting("late", timeout_ms=1000)
    await pool.waiting("next")
    pool.clock.advance(1000)
    done = await pool.assign(Move("late", 0, choice), Move("next", 0, "e1"))
    assert done.results == ["expired", "assigned"]
    ending = await pool.ending("late")
    assert (ending.outcome, ending.status) == (Outcome.EXPIRED, 408)
    assert (await pool.counters())["expired"] == 1
    assert await pool.holds() == {"next"}
    assert not await pool.store.commands.exists(pool.keys.body("late"))


async def test_a_cancelled_one_is_gone_and_stops_nobody(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.waiting("a", "b")
    await cancel(pool.store, pool.name, "a")
    assert (await pool.assign(Move("a", 0, "e1"), Move("b", 0, "e1"))).results == ["gone", "assigned"]


async def test_one_whose_record_is_gone_leaves_the_waiting_set(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.waiting("a", "b")
    await pool.store.commands.delete(pool.keys.record("a"), pool.keys.body("a"))
    assert (await pool.assign(Move("a", 0, "e1"), Move("b", 0, "e1"))).results == ["gone", "assigned"]
    assert await pool.waiting_ids() == []
    assert await pool.counters() == {"accepted": 2, "lost": 1}


async def test_nothing_is_kept_of_one_whose_record_is_gone(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.waiting("a")
    await pool.store.commands.delete(pool.keys.record("a"))
    for _ in range(2):
        assert (await pool.assign(Move("a", 0, "e1"))).results == ["gone"]
    assert not await pool.store.commands.exists(pool.keys.body("a"))
    assert await pool.counters() == {"accepted": 1, "lost": 1}


async def test_sent_again_it_changes_nothing(pool: PoolDriver) -> None:
    await pool.engine(slots=5)
    await pool.waiting("a")
    await pool.assign(Move("a", 0, "e1"))
    before = await pool.record("a")
    assert (await pool.assign(Move("a", 0, "e1"))).results == ["gone"]
    assert await pool.record("a") == before
    assert len(await pool.assigned_entries()) == 1


async def test_freed_entries_are_settled(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.waiting("b")
    await pool.finish("a")
    (freed,) = (await pool.take()).freed
    assert (freed.engine, freed.free) == ("e1", 1)
    done = await pool.assign(Move("b", 0, "e1"), settles=(freed.entry_id,))
    assert done.results == ["assigned"]
    assert await pool.freed() == []
    assert (await pool.store.commands.xpending(pool.keys.freed, SCHEDULER_GROUP))["pending"] == 0


async def test_settling_alone(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.waiting("b")
    await pool.finish("a")
    (freed,) = (await pool.take()).freed
    done = await pool.assign(settles=(freed.entry_id,))
    assert (done.results, done.room.waiting, done.room.open_engines) == ([], 1, 1)
    assert await pool.freed() == []


async def test_those_passed_before_need_not_be_named(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.waiting("a", "b", "c", "d")
    done = await pool.assign(Move("c", 0, "e1"), Move("d", 0, "e1"), passed=2)
    assert done.results == ["assigned", "assigned"]
    assert await pool.waiting_ids() == ["a", "b"]


async def test_one_that_came_in_among_those_passed_before_is_noticed(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.waiting("a", "b", "c", "d")
    assert (await pool.assign(Move("d", 0, "e1"), passed=2)).results == ["stale"]
