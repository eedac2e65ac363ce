"""Read-only views of the shared state."""

from __future__ import annotations

import pytest

from sagellm_control.store.inspect import (
    engine_rows,
    list_pools,
    model_index,
    pool_depth,
    read_output,
    room,
    server_ms,
)
from sagellm_control.store.steps.engines import retire_engine
from sagellm_control.store.steps.room_note import RoomNote
from sagellm_control.store.views import count_requests, find_request, list_engines, list_requests
from sagellm_control.store.waiting_line import WaitingLine
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import EngineState, RequestState

from ..lapsed import lapsed_leases
from ..pool_driver import LEASE_MS, PoolDriver


@pytest.fixture
async def busy(pool: PoolDriver) -> PoolDriver:
    """A request in every state."""
    await pool.engine("e1", slots=3, models=("lora",), url="http://x", kind="vllm")
    await pool.running("done", "runs", tenant="t")
    await pool.finish("done")
    await pool.assigned("assigned")
    await pool.waiting("first", "second")
    await pool.accept("new", priority=RequestPriority.HIGH)
    return pool


async def test_pools_and_models(busy: PoolDriver) -> None:
    assert await list_pools(busy.store) == [busy.name]
    assert await model_index(busy.store) == {busy.name: busy.name, "lora": busy.name}


async def test_depth(busy: PoolDriver) -> None:
    depth = await pool_depth(busy.store, busy.name)
    assert depth.queued == {"critical": 0, "high": 1, "normal": 0, "low": 0, "background": 0}
    assert (depth.waiting, depth.engines, depth.open_engines) == (2, 1, 1)
    assert depth.counters == {"accepted": 6, "completed": 1}
    assert await room(busy.store, busy.name) == {"e1": RoomNote(1)}


async def test_depth_of_a_pool_that_is_not_there(pool: PoolDriver) -> None:
    depth = await pool_depth(pool.store, pool.name)
    assert (depth.waiting, depth.engines, depth.counters) == (0, 0, {})


async def test_engines(busy: PoolDriver) -> None:
    busy.clock.advance(1000)
    (view,) = await list_engines(busy.store)
    assert (view.pool, view.engine_id, view.kind, view.state) == (busy.name, "e1", "vllm", EngineState.READY)
    assert (view.slots, view.active, view.models, view.worker) == (3, 2, ["lora"], "w-e1")
    assert view.lease_s is not None
    assert 0 < view.lease_s < LEASE_MS / 1000
    await retire_engine(busy.store, busy.name, "e1", "w-e1", EngineState.STOPPED, "why")
    (view,) = await list_engines(busy.store)
    assert (view.state, view.reason, view.lease_s, view.active) == (EngineState.STOPPED, "why", None, 0)


async def test_rows_of_engines_that_are_gone_are_left_out(busy: PoolDriver) -> None:
    rows = await engine_rows(busy.store, busy.name, ["gone", "e1"])
    assert [row.engine_id for row in rows] == ["e1"]
    assert await engine_rows(busy.store, busy.name, []) == []


@pytest.mark.parametrize(
    ("state", "ids"),
    [
        (None, ["assigned", "runs", "first", "second", "new"]),
        (RequestState.QUEUED, ["new"]),
        (RequestState.WAITING, ["first", "second"]),
        (RequestState.ASSIGNED, ["assigned"]),
        (RequestState.RUNNING, ["runs"]),
        (RequestState.FINISHED, ["done"]),
    ],
)
async def test_requests_by_state(busy: PoolDriver, state: RequestState | None, ids: list[str]) -> None:
    views = await list_requests(busy.store, state=state)
    assert [view.request_id for view in views] == ids
    assert [view.request_id for view in await list_requests(busy.store, busy.name, state)] == ids
    assert len(await list_requests(busy.store, state=state, limit=1)) == 1


async def test_a_finished_one_is_found_among_many_that_are_not(busy: PoolDriver) -> None:
    await busy.accept(*(f"more-{n}" for n in range(60)))
    assert [v.request_id for v in await list_requests(busy.store, state=RequestState.FINISHED, limit=1)] == ["done"]


async def test_finished_ones_come_the_newest_first(pool: PoolDriver) -> None:
    ended = [f"ended-{n}" for n in range(9)]
    await pool.engine(slots=9)
    await pool.running(*ended)
    for request_id in ended:
        pool.clock.advance(1)
        await pool.finish(request_id)
    for limit in (3, 9, 10):
        views = await list_requests(pool.store, state=RequestState.FINISHED, limit=limit)
        assert [view.request_id for view in views] == [*reversed(ended)][:limit]


async def test_totals(busy: PoolDriver) -> None:
    assert await count_requests(busy.store) == await count_requests(busy.store, busy.name) == (2, 2, 1)


async def test_one_request(busy: PoolDriver) -> None:
    waits = await find_request(busy.store, "second")
    assert waits is not None
    assert (waits.state, waits.position, waits.attempt, waits.priority) == (RequestState.WAITING, 1, 0, "normal")
    runs = await find_request(busy.store, "runs")
    assert runs is not None
    assert (runs.state, runs.engine, runs.attempt, runs.tenant) == (RequestState.RUNNING, "e1", 1, "t")
    done = await find_request(busy.store, "done")
    assert done is not None
    assert (done.outcome, done.fields["status"]) == ("completed", "200")
    assert await find_request(busy.store, "never-heard-of") is None


@pytest.mark.parametrize(
    "damage", [{"state": "odd"}, {"priority": "9"}, {"attempt": "x"}, {"arrived_ms": "x"}], ids=str
)
async def test_a_damaged_record_hides_no_other(
    busy: PoolDriver, damage: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    await busy.store.commands.hset(busy.keys.record("first"), mapping=damage)
    views = await list_requests(busy.store)
    assert [view.request_id for view in views] == ["assigned", "runs", "second", "new"]
    assert await find_request(busy.store, "first") is None
    assert "the record of request 'first' cannot be read" in caplog.text
    await busy.store.commands.delete(busy.keys.record("first"), busy.keys.body("first"))


async def test_the_head_of_the_waiting_set(busy: PoolDriver) -> None:
    await busy.requeue("runs")
    line = WaitingLine(busy.store, busy.name)
    head = await line.read(0, 2)
    assert [(waiting.arrival.id, waiting.attempts) for waiting in head] == [("runs", 1), ("first", 0)]
    assert head[0].arrival.excluded == ("e1",)
    assert len(await line.read(0, 99)) == 3
    assert [waiting.arrival.id for waiting in await line.read(1, 1)] == ["first"]


async def test_lapsed_leases(busy: PoolDriver) -> None:
    assert await lapsed_leases(busy) == []
    busy.clock.advance(LEASE_MS)
    assert await lapsed_leases(busy) == ["e1"]


async def test_output_behind_a_position(busy: PoolDriver) -> None:
    for sequence in (1, 2, 3):
        await busy.append("runs", sequence, str(sequence).encode())
    for after, expected in {(0, 0): [b"1", b"2", b"3"], (1, 1): [b"2", b"3"], (1, 3): [], (2, 1): []}.items():
        events = await read_output(busy.store, busy.name, "runs", after=after)
        assert [event.payload for event in events] == expected
    assert len(await read_output(busy.store, busy.name, "runs", count=2)) == 2


async def test_the_clock_is_the_stores(pool: PoolDriver) -> None:
    assert await server_ms(pool.store, pool.name) == pool.clock.now_ms
