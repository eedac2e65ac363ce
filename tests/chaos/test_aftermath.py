"""What is left in the shared state is found: stuck requests, places held by nobody, what is lost or miscounted."""

from __future__ import annotations

import pytest

from sagellm_control.chaos.aftermath import read_aftermath, wait_until_settled
from sagellm_control.chaos.comparison import Flaw
from sagellm_control.chaos.ledger import Asked, Ledger
from sagellm_control.chaos.plan import POOL
from sagellm_control.chaos.question import Question
from sagellm_control.store.connect import Store
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.event import EVENT_STREAM, Ending
from sagellm_control.wire.states import Outcome

from ..clock import Clock
from ..pool_driver import PoolDriver
from .test_transcript import TOKENS, stream


@pytest.fixture
async def pool(store: Store, clock: Clock) -> PoolDriver:
    """The pool of the simulated engines, with one engine."""
    pool = PoolDriver(store, clock, POOL)
    await pool.engine(slots=2)
    return pool


def asked_for(*request_ids: str) -> Ledger:
    ledger = Ledger()
    for request_id in request_ids:
        asked = Asked(Question("what is it", 12), request_id, accepted=True)
        ledger.asked[request_id] = asked
    return ledger


async def answer(pool: PoolDriver, request_id: str, body: bytes) -> None:
    await pool.running(request_id)
    assert await pool.finish(request_id, ending=Ending(Outcome.COMPLETED, content_type=EVENT_STREAM, body=body))


async def test_when_all_is_well_nothing_is_found(pool: PoolDriver) -> None:
    await answer(pool, "a", stream(TOKENS))
    assert await wait_until_settled(pool.store, 1)
    found = await read_aftermath(pool.store, asked_for("a"))
    assert (found.accepted, found.outcomes) == (1, {"completed": 1})
    assert (found.stuck, found.lost, found.reservations, found.left_over, found.flaws) == (set(), set(), [], [], {})


async def test_a_flaw_in_a_log_that_nobody_read(pool: PoolDriver) -> None:
    await answer(pool, "a", stream([*TOKENS[:3], *TOKENS[2:]]))
    assert (await read_aftermath(pool.store, asked_for("a"))).flaws == {Flaw.DOUBLED: 1}


@pytest.mark.parametrize("state", ["queued", "waiting", "assigned", "running"])
async def test_a_request_that_has_not_ended_is_stuck_wherever_it_is(pool: PoolDriver, state: str) -> None:
    match state:
        case "queued":
            await pool.accept("a")
        case "waiting":
            await pool.waiting("a")
        case "assigned":
            await pool.assigned("a")
        case _:
            await pool.running("a")
    assert not await wait_until_settled(pool.store, 0.3)
    found = await read_aftermath(pool.store, asked_for("a"))
    assert found.stuck == {"a"}
    assert found.left_over
    assert bool(found.reservations) == (state in ("assigned", "running"))


async def test_a_request_in_no_place(pool: PoolDriver) -> None:
    await pool.waiting("a")
    await pool.store.commands.zrem(pool.keys.waiting, "a")
    assert await wait_until_settled(pool.store, 1)
    assert (await read_aftermath(pool.store, asked_for("a"))).stuck == {"a"}


async def test_a_place_that_nobody_gives_back(pool: PoolDriver) -> None:
    await answer(pool, "a", stream(TOKENS))
    await pool.store.commands.hset(pool.keys.reservations("e1"), "a", 0)
    assert not await wait_until_settled(pool.store, 0.3)
    found = await read_aftermath(pool.store, asked_for("a"))
    assert (found.reservations, found.stuck) == (["a on e1"], set())


async def test_room_that_is_noted_wrong(pool: PoolDriver) -> None:
    await answer(pool, "a", stream(TOKENS))
    await pool.store.commands.zadd(pool.keys.room, {"e1": 1})
    (said,) = (await read_aftermath(pool.store, asked_for("a"))).left_over
    assert "noted as 1.0 free, not 2" in said


async def test_room_of_an_engine_that_starts_slowly(pool: PoolDriver) -> None:
    await answer(pool, "a", stream(TOKENS))
    await pool.engine("back", slots=4, limit=1)
    assert (await read_aftermath(pool.store, asked_for("a"))).left_over == []


async def test_an_accepted_request_without_a_record_is_lost(pool: PoolDriver) -> None:
    await answer(pool, "a", stream(TOKENS))
    await pool.store.commands.delete(pool.keys.record("a"))
    found = await read_aftermath(pool.store, asked_for("a"))
    assert found.lost == {"a"}
    assert "there are 0 records" in "".join(found.left_over)


@pytest.mark.parametrize(("field", "value"), [("engine", "e2"), ("attempt", "2")])
async def test_an_end_by_somebody_who_did_not_hold_the_request(pool: PoolDriver, field: str, value: str) -> None:
    await pool.running("a")
    ending = Ending(Outcome.COMPLETED, content_type=EVENT_STREAM, engine="e1", body=stream(TOKENS))
    assert await pool.finish("a", ending=ending)
    assert (await read_aftermath(pool.store, asked_for("a"))).left_over == []
    await pool.store.commands.hset(pool.keys.record("a"), field, value)
    (said,) = (await read_aftermath(pool.store, asked_for("a"))).left_over
    assert said == "a was ended by attempt 1 on e1, which did not hold it"


async def test_what_ends_while_it_waits_is_ended_by_nobody(pool: PoolDriver) -> None:
    await pool.waiting("a")
    await cancel(pool.store, POOL, "a")
    await pool.running("b")
    await pool.requeue("b", Cause.LAPSED)
    await cancel(pool.store, POOL, "b")
    await pool.accept("c")
    await cancel(pool.store, POOL, "c")
    await pool.store.commands.delete(pool.keys.freed)  # nobody is there to take the announcement
    assert (await read_aftermath(pool.store, asked_for("a", "b", "c"))).left_over == []


async def test_a_request_that_was_ended_and_whose_log_was_not(pool: PoolDriver) -> None:
    await answer(pool, "a", stream(TOKENS))
    await pool.store.commands.delete(pool.keys.output("a"))
    assert (await read_aftermath(pool.store, asked_for("a"))).left_over == ["a has ended, and its output log has not"]
