"""Two versions of the code side by side: what a later one adds is kept by every step, and disturbs nobody."""

from __future__ import annotations

import orjson
import pytest

from sagellm_control.store.inspect import engine_rows
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.engines import renew_engine
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.store.views import find_request, list_requests
from sagellm_control.wire.assignment import read_assigned
from sagellm_control.wire.event import Ending, Event, read_frames
from sagellm_control.wire.request import WIRE_VERSION, read_arrival
from sagellm_control.wire.states import Outcome

from ..pool_driver import LEASE_MS, PoolDriver
from ..pool_state import read_state, violations

LATER = {"v": str(WIRE_VERSION + 1), "colour": "blue", "hints": '{"deep":[1,2]}'}


async def make_later(pool: PoolDriver, key: str) -> None:
    """A later version has written more into this hash."""
    await pool.store.commands.hset(key, mapping=LATER)


async def assert_kept(pool: PoolDriver, key: str) -> None:
    fields = await pool.store.commands.hgetall(key)
    assert {name: fields.get(name.encode(), b"").decode() for name in LATER} == LATER


@pytest.mark.parametrize("ending", ["finished", "cancelled", "failed"])
async def test_a_record_keeps_its_fields_through_every_step(pool: PoolDriver, ending: str) -> None:
    row = await pool.engine("e1", slots=2)
    await make_later(pool, pool.keys.engine("e1"))
    await pool.accept("a")
    record = pool.keys.record("a")
    await make_later(pool, record)
    # Its intake entry has more fields, too.
    db = pool.store.commands
    (entry_id, fields), *_ = await db.xrange(pool.keys.intake[2])
    await db.xdel(pool.keys.intake[2], entry_id)
    await db.hset(record, "entry", await db.xadd(pool.keys.intake[2], fields | LATER))
    (entry,) = (await pool.take()).arrivals
    assert read_arrival("a", entry.fields).id == "a"
    assert (await pool.admit(pool.admission(entry))).results == ["waiting"]
    await assert_kept(pool, record)
    for attempt, cause in enumerate((Cause.FAILED, Cause.RETURNED, Cause.LAPSED)):
        assert (await pool.assign(Move("a", attempt, "e1"))).results == ["assigned"]
        assert await pool.claim("a", attempt + 1) == "running"
        worker = "" if cause is Cause.LAPSED else None
        if cause is Cause.LAPSED:
            await db.hset(pool.keys.engine("e1"), "worker", "")
        assert await pool.requeue("a", cause, attempt=attempt + 1, worker=worker) == "waiting"
        await assert_kept(pool, record)
    await db.hset(pool.keys.engine("e1"), "worker", row.worker)
    await pool.assign(Move("a", 3, "e1"))
    await pool.claim("a", 4)
    renewal = await renew_engine(pool.store, row, [("a", 4)], lease_ms=LEASE_MS)
    assert renewal is not None
    assert renewal.attempts == ["running"]
    assert await pool.append("a", attempt=4)
    match ending:
        case "finished":
            assert await pool.finish("a", 2, attempt=4)
        case "cancelled":
            await cancel(pool.store, pool.name, "a")
            assert await pool.finish("a", 2, Ending(Outcome.CANCELLED), attempt=4)
        case _:
            assert await pool.requeue("a", attempt=4) == "failed"
    await assert_kept(pool, record)
    await assert_kept(pool, pool.keys.engine("e1"))
    (read,) = await engine_rows(pool.store, pool.name, ["e1"])
    assert read.slots == 2
    assert violations(await read_state(pool.store, pool.keys)) == []


async def test_people_see_them_as_well(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.waiting("a")
    await make_later(pool, pool.keys.record("a"))
    assert [view.request_id for view in await list_requests(pool.store)] == ["a"]
    view = await find_request(pool.store, "a")
    assert view is not None
    assert view.fields["colour"] == "blue"


async def test_an_assigned_entry_may_have_more_fields(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.assigned("a")
    ((entry_id, fields),) = await pool.store.commands.xrange(pool.keys.assigned("e1"))
    more = {name.encode(): value.encode() for name, value in LATER.items()}
    assert read_assigned(entry_id, fields | more) == read_assigned(entry_id, fields)


def test_an_ending_may_have_more_fields_and_an_outcome_of_its_own() -> None:
    line = orjson.dumps({"outcome": "postponed", "status": 503, "code": "later", "colour": "blue"})
    ending = Ending.decode(line + b"\nbody")
    assert (ending.outcome, ending.status, ending.code, ending.body) == (Outcome.FAILED, 503, "later", b"body")


def test_an_event_may_be_of_a_kind_of_its_own() -> None:
    assert read_frames(b"a 1-1 colour 4\nblue\n") == [Event("a", 1, 1, "colour", b"blue")]
