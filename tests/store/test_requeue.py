"""requeue: attempts that did not work out go back to the waiting set at their old rank, or end."""

from __future__ import annotations

import pytest

from sagellm_control.scheduler.policy_settings import DEFAULTS
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.engines import drain_engine
from sagellm_control.store.steps.mend import census
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.store.steps.requeue import BUSY_PATIENCE_S, MAX_LAPSES, Cause, Requeue, requeue
from sagellm_control.wire.states import Outcome

from ..pool_driver import BROKEN, BUSY, PoolDriver


@pytest.mark.parametrize("state", ["assigned", "running"])
@pytest.mark.parametrize(
    ("cause", "failures", "lapses", "excluded"),
    [
        (Cause.FAILED, "1", "0", "e1"),
        (Cause.LAPSED, "0", "1", None),
        (Cause.BUSY, "0", "0", None),
        (Cause.RETURNED, "0", "0", None),
    ],
)
async def test_back_at_its_old_rank(
    pool: PoolDriver, cause: Cause, failures: str, lapses: str, excluded: str | None, state: str
) -> None:
    await pool.engine()
    await getattr(pool, state)("a")
    rank = float((await pool.record("a"))["rank"])
    await pool.waiting("later")
    assert await pool.requeue("a", cause) == "waiting"
    assert await pool.waiting_ids() == ["a", "later"]
    assert await pool.store.commands.zscore(pool.keys.waiting, "a") == rank
    record = await pool.record("a")
    assert (record["state"], record["failures"], record["lapses"]) == ("waiting", failures, lapses)
    assert record.get("excluded") == excluded
    assert "engine" not in record
    assert "entry" not in record
    assert (await pool.holds(), await pool.assigned_entries(), await pool.room()) == (set(), [], {"e1": 1})
    assert (await pool.counters())["requeued"] == 1
    assert await pool.store.commands.exists(pool.keys.body("a"))
    assert await pool.events("a") == []


@pytest.mark.parametrize("cause", list(Cause))
async def test_a_prompt_stays_one(pool: PoolDriver, cause: Cause) -> None:
    await pool.engine()
    await pool.waiting("a", stage="prefill")
    assert (await pool.assign(Move("a", 0, "e1", stage="prefill"))).results == ["assigned"]
    await pool.requeue("a", cause)
    assert (await pool.record("a"))["stage"] == "prefill"


async def test_each_engine_is_excluded_once_and_the_last_one_last(pool: PoolDriver) -> None:
    for engine in ("e1", "e2"):
        await pool.engine(engine)
    await pool.running("a", engine="e1")
    for attempt, engine in enumerate(("e1", "e2", "e1"), 1):
        pool.clock.advance(1000)
        await pool.requeue("a", attempt=attempt, engine=engine, max_failures=9)
        await pool.assign(Move("a", attempt, "e2" if engine == "e1" else "e1"))
        assert (await pool.record("a"))["excluded_ms"] == pool.clock(), "when the last of them did"
    assert (await pool.record("a"))["excluded"] == "e2 e1"


async def test_with_the_last_failure_it_ends_with_that_error(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    for attempt in (1, 2):
        assert await pool.requeue("a", attempt=attempt, max_failures=3) == "waiting"
        await pool.assign(Move("a", attempt, "e1"))
    assert await pool.requeue("a", attempt=3, max_failures=3) == "failed"
    assert await pool.ending("a") == BROKEN
    assert (await pool.counters())["failed"] == 1
    assert (await pool.holds(), await pool.waiting_ids(), await pool.dead()) == (set(), [], [])


async def test_lapses_and_returns_are_no_failures(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    for attempt, cause in enumerate((Cause.LAPSED, Cause.RETURNED, Cause.LAPSED, Cause.RETURNED), 1):
        assert await pool.requeue("a", cause, attempt=attempt, max_failures=1) == "waiting"
        await pool.assign(Move("a", attempt, "e1"))
    assert await pool.requeue("a", Cause.FAILED, attempt=5, max_failures=1) == "failed"


async def test_what_stays_busy_has_failed(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    for attempt in range(1, 10):
        assert await pool.requeue("a", Cause.BUSY, attempt=attempt, last_error=BUSY, max_failures=2) == "waiting"
        pool.clock.advance(BUSY_PATIENCE_S * 1000 / 10)
        await pool.assign(Move("a", attempt, "e1"))
    record = await pool.record("a")
    assert (record["failures"], "excluded" in record, "errors" in record) == ("0", False, False)
    pool.clock.advance(BUSY_PATIENCE_S * 1000 / 10)
    assert await pool.requeue("a", Cause.BUSY, attempt=10, last_error=BUSY, max_failures=2) == "waiting"
    record = await pool.record("a")
    assert (record["failures"], record["excluded"], record["busy_status"]) == ("1", "e1", "429")
    assert record["errors"] == "10 e1 engine_error (engine e1 answered 429)"
    await pool.assign(Move("a", 10, "e1"))
    assert await pool.requeue("a", Cause.BUSY, attempt=11, last_error=BUSY, max_failures=2) == "failed"
    assert await pool.ending("a") == BUSY


async def test_a_time_that_is_none_begins_anew(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.store.commands.hset(pool.keys.record("a"), "busy_ms", "long ago")
    assert await pool.requeue("a", Cause.BUSY, last_error=None, max_failures=1) == "waiting"
    assert float((await pool.record("a"))["busy_ms"]) == pool.clock.now_ms


@pytest.mark.parametrize("told_to_stop", [False, True])
async def test_one_that_expires_with_a_busy_engine_says_so(pool: PoolDriver, told_to_stop: bool) -> None:
    await pool.engine()
    await pool.running("a", timeout_ms=1000)
    if told_to_stop:
        await cancel(pool.store, pool.name, "a", Outcome.EXPIRED)
    pool.clock.advance(1000)
    assert await pool.requeue("a", Cause.BUSY, last_error=BUSY) == "expired"
    ending = await pool.ending("a")
    assert (ending.outcome, ending.status, ending.code) == (Outcome.EXPIRED, 504, "deadline_exceeded")
    assert ending.message.endswith(" before the engine had answered in full; the last busy engine answered 429.")


async def test_one_whose_workers_always_die_is_given_up(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a", body=b"poison")
    for attempt in range(1, MAX_LAPSES):
        assert await pool.requeue("a", Cause.LAPSED, attempt=attempt) == "waiting"
        await pool.assign(Move("a", attempt, "e1"))
    assert await pool.requeue("a", Cause.LAPSED, attempt=MAX_LAPSES) == "dead"
    ending = await pool.ending("a")
    assert (ending.outcome, ending.code) == (Outcome.DEAD, "poison_request")
    (copy,) = await pool.dead()
    assert (copy["request"], copy["body"]) == ("a", "poison")
    assert "3 times" in copy["reason"]


@pytest.mark.parametrize(("setting", "most"), [("1", 1), ("5", 5), ("", MAX_LAPSES), ("a few", MAX_LAPSES)])
async def test_how_many_workers_may_be_lost_is_a_setting_of_the_pool(pool: PoolDriver, setting: str, most: int) -> None:
    await set_policy(pool.store, pool.name, {}, {"max_lapses": setting})
    await pool.engine()
    await pool.running("a")
    for attempt in range(1, most):
        assert await pool.requeue("a", Cause.LAPSED, attempt=attempt) == "waiting"
        await pool.assign(Move("a", attempt, "e1"))
    assert await pool.requeue("a", Cause.LAPSED, attempt=most) == "dead"


def test_its_default_is_the_one_that_is_shown() -> None:
    assert DEFAULTS.max_lapses == MAX_LAPSES


@pytest.mark.parametrize(
    ("cause", "code"),
    [(Cause.FAILED, "engine_broken"), (Cause.LAPSED, "engine_lost"), (Cause.RETURNED, "engine_lost")],
)
async def test_after_output_one_that_may_not_be_continued_ends(pool: PoolDriver, cause: Cause, code: str) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.append("a", 1)
    await pool.append("a", 2)
    assert await pool.requeue("a", cause) == "failed"
    ending = await pool.ending("a")
    assert (ending.outcome, ending.code) == (Outcome.FAILED, code)
    assert [event.position for event in await pool.events("a")] == [(1, 1), (1, 2), (1, 3)]


@pytest.mark.parametrize("cause", Cause)
async def test_after_output_one_that_may_be_continued_goes_back(pool: PoolDriver, cause: Cause) -> None:
    await pool.engine("e1")
    await pool.engine("e2")
    await pool.running("a", stream=True, continuable=True)
    await pool.append("a", 1)
    await pool.append("a", 2)
    rank = (await pool.record("a"))["rank"]
    assert await pool.requeue("a", cause) == "waiting"
    record = await pool.record("a")
    assert (record["after"], record["rank"]) == ("1-2", rank)
    await pool.assign(Move("a", 1, "e2"))
    (entry,) = await pool.assigned_entries("e2")
    assert (entry["attempt"], entry["after"]) == ("2", "1-2")
    # From here on not one event of the old attempt.
    assert not await pool.append("a", 3)
    assert await pool.append("a", 1, attempt=2, engine="e2")
    assert [event.position for event in await pool.events("a")] == [(1, 1), (1, 2), (2, 1)]


async def test_one_that_gave_nothing_starts_anew(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a", stream=True, continuable=True)
    assert await pool.requeue("a") == "waiting"
    assert "after" not in await pool.record("a")
    await pool.assign(Move("a", 1, "e1"))
    (entry,) = await pool.assigned_entries()
    assert "after" not in entry


async def test_the_last_failure_ends_one_that_may_be_continued(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a", stream=True, continuable=True)
    await pool.append("a", 1)
    assert await pool.requeue("a", max_failures=1) == "failed"
    assert await pool.ending("a") == BROKEN


async def test_only_a_stream_is_ever_continued(pool: PoolDriver) -> None:
    await pool.accept("a", continuable=True)
    assert "continue" not in await pool.record("a")


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.EXPIRED])
@pytest.mark.parametrize("cause", Cause)
async def test_one_that_was_to_be_stopped_ends_so(pool: PoolDriver, cause: Cause, outcome: Outcome) -> None:
    await pool.engine()
    await pool.running("a")
    await cancel(pool.store, pool.name, "a", outcome)
    assert await pool.requeue("a", cause) == outcome
    assert (await pool.ending("a")).outcome == outcome
    assert (await pool.counters())[outcome] == 1


async def test_one_whose_timeout_passed_ends(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a", timeout_ms=1000)
    pool.clock.advance(1000)
    assert await pool.requeue("a") == "expired"
    ending = await pool.ending("a")
    assert (ending.outcome, ending.status) == (Outcome.EXPIRED, 504)


async def test_sent_again_it_changes_nothing(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.requeue("a")
    before = await pool.record("a")
    assert await pool.requeue("a") == "lost"
    assert await pool.record("a") == before
    assert (await pool.counters())["requeued"] == 1


async def test_a_batch(pool: PoolDriver) -> None:
    await pool.engine(slots=3)
    await pool.running("a", "b", "c")
    await pool.append("b")
    items = [Requeue("a", 1, Cause.RETURNED), Requeue("b", 1, Cause.FAILED, BROKEN), Requeue("c", 2, Cause.FAILED)]
    assert await requeue(pool.store, pool.name, "e1", "w-e1", items) == ["waiting", "failed", "lost"]
    assert await pool.holds() == {"c"}


async def test_the_waiting_set_is_announced_to_any_engine_with_room(pool: PoolDriver) -> None:
    await pool.engine("e1")
    await pool.engine("e2", slots=4)
    await pool.running("a", engine="e1")
    await drain_engine(pool.store, pool.name, "e1")
    await pool.requeue("a", Cause.RETURNED, engine="e1")
    assert await pool.freed() == [("e2", 4)]


async def test_nothing_is_announced_where_nobody_has_room(pool: PoolDriver) -> None:
    await pool.engine("e1")
    await pool.running("a")
    await drain_engine(pool.store, pool.name, "e1")
    await pool.requeue("a", Cause.RETURNED)
    assert await pool.freed() == []


@pytest.mark.parametrize("left", ["no record", "a finished one"])
async def test_a_reservation_that_nobody_owns_is_dropped(pool: PoolDriver, left: str) -> None:
    await pool.engine(slots=2)
    if left == "a finished one":
        await pool.running("ghost")
        await pool.finish("ghost")
    await pool.store.commands.hset(pool.keys.reservations("e1"), "ghost", 0)
    assert await pool.requeue("ghost") == "lost"
    assert (await pool.holds(), await pool.room()) == (set(), {"e1": 2})


async def test_one_whose_record_is_gone_counts_as_lost(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.append("a")
    await pool.store.commands.delete(pool.keys.record("a"))
    for _ in range(2):
        assert await pool.requeue("a", Cause.LAPSED) == "lost"
    assert (await pool.counters())["lost"] == 1
    assert (await census(pool.store, pool.name, ["e1"])).missing == 0
    assert not await pool.store.commands.exists(pool.keys.body("a"))
    assert await pool.store.commands.ttl(pool.keys.output("a")) > 0
