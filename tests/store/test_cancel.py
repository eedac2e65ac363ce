"""cancel: a request ends, wherever it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sagellm_control.store.connect import Store
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.cancel import CancelResult, cancel, give_up
from sagellm_control.store.steps.endings import CANCELLED, EXPIRED_WAITING
from sagellm_control.store.steps.engines import retire_engine
from sagellm_control.store.steps.forget_unserved import forget_unserved
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.attempts import ATTEMPTS_APART
from sagellm_control.wire.event import END, Ending, read_frames
from sagellm_control.wire.keys import SCHEDULER_GROUP
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import EngineState, Outcome

from ..pool_driver import BUSY, PoolDriver, new_request

GIVEN_UP = Ending(Outcome.EXPIRED, status=503, code="no_engine")


@pytest.mark.parametrize(
    ("outcome", "status"), [(Outcome.CANCELLED, 499), (Outcome.EXPIRED, 408)], ids=["cancelled", "expired"]
)
@pytest.mark.parametrize("where", ["queued", "read by a scheduler", "waiting", "waiting again"])
async def test_what_does_not_run_ends_at_once(pool: PoolDriver, where: str, outcome: Outcome, status: int) -> None:
    await pool.engine()
    match where:
        case "waiting":
            await pool.waiting("a")
        case "waiting again":
            await pool.running("a")
            await pool.requeue("a", Cause.RETURNED)
        case _:
            await pool.accept("a", priority=RequestPriority.LOW)
            if where != "queued":
                await pool.take()
    async with pool.store.subscriber().pubsub() as listener:
        await listener.subscribe("inbox-of-a")
        await listener.get_message(timeout=5)
        assert await cancel(pool.store, pool.name, "a", outcome) is CancelResult.ENDED
        message = await listener.get_message(ignore_subscribe_messages=True, timeout=5)
        assert message is not None
        assert [event.type for event in read_frames(message["data"])] == [END]
    ending = await pool.ending("a")
    assert (ending.outcome, ending.status) == (outcome, status)
    record = await pool.record("a")
    assert (record["state"], record["outcome"]) == ("finished", outcome)
    assert await pool.waiting_ids() == []
    low = pool.keys.intake[RequestPriority.LOW]
    assert await pool.store.commands.xlen(low) == 0
    await pool.take()
    assert (await pool.store.commands.xpending(low, SCHEDULER_GROUP))["pending"] == 0
    assert not await pool.store.commands.exists(pool.keys.body("a"))
    assert (await pool.counters())[outcome] == 1


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.EXPIRED])
async def test_who_waits_for_a_busy_engine_until_its_timeout_is_told_so(pool: PoolDriver, outcome: Outcome) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.requeue("a", Cause.BUSY, last_error=BUSY)
    assert await cancel(pool.store, pool.name, "a", outcome) is CancelResult.ENDED
    ending, usual = await pool.ending("a"), EXPIRED_WAITING if outcome is Outcome.EXPIRED else CANCELLED
    said = "; the last busy engine answered 429." if outcome is Outcome.EXPIRED else "."
    assert ending == replace(Ending.decode(usual), message=ending.message)
    assert ending.message == Ending.decode(usual).message.removesuffix(".") + said


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.EXPIRED])
@pytest.mark.parametrize("state", ["assigned", "running"])
async def test_what_runs_is_stopped_by_its_worker(pool: PoolDriver, state: str, outcome: Outcome) -> None:
    await pool.engine()
    await getattr(pool, state)("a")
    assert await cancel(pool.store, pool.name, "a", outcome) is CancelResult.STOPPING
    assert await pool.state("a") == state
    assert await pool.holds() == {"a"}
    notice = (await pool.assigned_entries())[-1]
    assert notice == {"id": "a", "attempt": "1", "cancel": outcome}
    # Until its worker has done so.
    assert await pool.finish("a")
    assert "cancel" not in await pool.record("a")


async def test_a_worker_is_told_once(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    for outcome in (Outcome.CANCELLED, Outcome.EXPIRED):
        assert await cancel(pool.store, pool.name, "a", outcome) is CancelResult.STOPPING
    assert len([entry for entry in await pool.assigned_entries() if "cancel" in entry]) == 1
    assert (await pool.record("a"))["cancel"] == "cancelled"


async def test_what_has_ended_stays_as_it_is(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.finish("a")
    before = await pool.record("a")
    assert await cancel(pool.store, pool.name, "a") is CancelResult.FINISHED
    assert await pool.record("a") == before
    assert len(await pool.events("a")) == 1


async def test_cancelled_twice_it_ended_once(pool: PoolDriver) -> None:
    await pool.waiting("a")
    assert await cancel(pool.store, pool.name, "a") is CancelResult.ENDED
    assert await cancel(pool.store, pool.name, "a") is CancelResult.FINISHED
    assert await pool.counters() == {"accepted": 1, "cancelled": 1}


async def test_what_is_not_there(pool: PoolDriver) -> None:
    assert await cancel(pool.store, pool.name, "a") is CancelResult.UNKNOWN
    assert await pool.record("a") == {}


class MovingStore:
    """A store on which, between the read and the script of a cancellation, the request moves."""

    def __init__(self, store: Store, move: Any) -> None:
        self._store = store
        self._move = move
        self.keys, self.now = store.keys, store.now
        self.reads = 0

    @property
    def commands(self) -> Any:
        return self

    async def hmget(self, *arguments: Any) -> Any:
        answer = await self._store.commands.hmget(*arguments)
        self.reads += 1
        if self.reads == 1:
            await self._move()
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store.commands, name)


async def test_one_that_moves_to_an_engine_meanwhile_is_followed(pool: PoolDriver) -> None:
    await pool.engine("e1")
    await pool.waiting("a")

    async def move() -> None:
        await pool.assign(Move("a", 0, "e1"))

    store: Any = MovingStore(pool.store, move)
    assert await cancel(store, pool.name, "a") is CancelResult.STOPPING
    assert store.reads == 2
    assert [entry.get("cancel") for entry in await pool.assigned_entries("e1")] == [None, "cancelled"]


async def test_one_that_moves_from_engine_to_engine_is_followed(pool: PoolDriver) -> None:
    await pool.engine("e1")
    await pool.engine("e2")
    await pool.running("a", engine="e1")

    async def move() -> None:
        await pool.requeue("a", engine="e1")
        await pool.assign(Move("a", 1, "e2"))

    store: Any = MovingStore(pool.store, move)
    assert await cancel(store, pool.name, "a") is CancelResult.STOPPING
    assert await pool.assigned_entries("e1") == []
    assert (await pool.assigned_entries("e2"))[-1]["cancel"] == "cancelled"


async def test_one_that_goes_back_meanwhile_ends(pool: PoolDriver) -> None:
    await pool.engine("e1")
    await pool.running("a")

    async def move() -> None:
        await pool.requeue("a", Cause.RETURNED)

    store: Any = MovingStore(pool.store, move)
    assert await cancel(store, pool.name, "a") is CancelResult.ENDED
    assert await pool.waiting_ids() == []


async def test_one_that_was_left_without_an_entry_ends(pool: PoolDriver) -> None:
    # As an accept leaves it that fails half way, on keys that somebody has damaged.
    await pool.accept("a")
    await pool.store.commands.hdel(pool.keys.record("a"), "entry")
    assert await cancel(pool.store, pool.name, "a") is CancelResult.ENDED
    assert await pool.state("a") == "finished"


async def test_another_submission_of_the_same_id_is_left_alone(pool: PoolDriver) -> None:
    await pool.accept("a")
    ticket = (await pool.record("a"))["ticket"]
    assert await cancel(pool.store, pool.name, "a", ticket="another") is CancelResult.UNKNOWN
    assert await pool.state("a") == "queued"
    assert await cancel(pool.store, pool.name, "a", ticket=ticket) is CancelResult.ENDED


async def test_what_had_an_engine_is_not_given_up_as_without_one(pool: PoolDriver) -> None:
    """It was held for an engine, had one, and waits for another try."""
    row = await pool.engine()
    await pool.running("a")
    await pool.requeue("a", Cause.FAILED)
    await retire_engine(pool.store, pool.name, "e1", row.worker, EngineState.ERROR, "")
    await pool.waiting("b")
    assert await give_up(pool.store, pool.name, "a", GIVEN_UP) is CancelResult.SERVED
    assert await give_up(pool.store, pool.name, "b", GIVEN_UP) is CancelResult.ENDED


async def test_what_was_submitted_again_is_given_up_like_any_other(pool: PoolDriver) -> None:
    """It lost its record, and counts its attempts from further on; no engine has had it."""
    await pool.accept("a", attempt=2 * ATTEMPTS_APART)
    assert await give_up(pool.store, pool.name, "a", GIVEN_UP) is CancelResult.ENDED


async def test_whose_time_passed_before_a_scheduler_read_it_is_told_so(pool: PoolDriver) -> None:
    await pool.waiting("b")
    await pool.accept("a")
    for request_id, says in (("a", "before any scheduler had read it"), ("b", "while it waited for an engine")):
        assert await cancel(pool.store, pool.name, request_id, Outcome.EXPIRED) is CancelResult.ENDED
        ending = await pool.ending(request_id)
        assert (ending.status, says in ending.message) == (408, True), ending.message


async def test_what_was_held_is_given_up_only_as_the_try_that_it_was(pool: PoolDriver) -> None:
    """It ended, and the same has been asked again under its id."""
    await pool.accept("a", ticket="second")
    assert await give_up(pool.store, pool.name, "a", GIVEN_UP, ticket="first") is CancelResult.UNKNOWN
    assert await give_up(pool.store, pool.name, "a", GIVEN_UP, ticket="second") is CancelResult.ENDED


async def test_what_no_engine_had_is_forgotten_for_another_try(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.running("ran")
    await pool.finish("ran")
    await pool.running("runs")
    await pool.accept("late", "cancelled")
    await cancel(pool.store, pool.name, "late", Outcome.EXPIRED)
    await cancel(pool.store, pool.name, "cancelled")
    for request_id, body, forgotten in (
        ("ran", None, False),
        ("runs", None, False),
        ("cancelled", None, False),
        ("late", b"another", False),
        ("late", None, True),
        ("late", None, True),  # as after a lost reply
    ):
        fields = {} if body is None else {"body": body}
        assert await forget_unserved(pool.store, new_request(request_id, pool.name, **fields)) is forgotten
    assert await pool.state("late") is None
    assert not await pool.store.commands.exists(pool.keys.output("late"))
