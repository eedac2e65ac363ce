"""The way of a request, on a cluster and behind Sentinels. ``pytest --topology …`` runs everything else there too."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_control.client import QueueClient
from sagellm_control.keeper.departures import DepartureKeeper
from sagellm_control.keeper.reconcile import Reconciler
from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.views import find_request, list_requests
from sagellm_control.wire.states import RequestState

from ..flow.answer_events import all_events, text_of
from ..flow.asking import CHAT_PATH, MODEL, chat, chat_bytes, data, delta_of, expected_text
from ..flow.conftest import StartEngine, StartSystem
from ..leaks import namespace_keys
from ..pool_driver import PoolDriver
from ..servers import Topology


@pytest.fixture(params=[Topology.SENTINEL, Topology.CLUSTER], ids=str)
def topology(request: pytest.FixtureRequest) -> Topology:
    return request.param


async def test_pools_on_several_nodes(start_engine: StartEngine, start_system: StartSystem) -> None:
    """Twelve models, streamed and whole, by two gateways and two schedulers."""
    models = [f"model-{number}" for number in range(12)]
    engines = [await start_engine(models=[model]) for model in models]
    system = await start_system(*engines, gateways=2, schedulers=2)

    async def ask(number: int, stream: bool) -> str:
        body = chat(f"to {number}", max_tokens=5, stream=stream) | {"model": models[number]}
        async with system.session.post(system.gateways[number % 2] + CHAT_PATH, json=body) as response:
            assert response.status == 200, await response.text()
            if stream:
                return "".join([delta_of(event) async for event in data(response)])
            return (await response.json())["choices"][0]["message"]["content"]

    for stream in (False, True):
        answers = await asyncio.gather(*(ask(number, stream) for number in range(len(models))))
        assert answers == [expected_text(f"to {number}", 5) for number in range(len(models))]
    views = await system.engine_views()
    assert {view.pool for view in views} == set(models)
    assert all(view.lease_s is not None and 0 < view.lease_s <= 5.1 for view in views)
    assert len(await list_requests(system.store, state=RequestState.FINISHED)) == 24


async def test_reading_cancelling_finding(
    start_engine: StartEngine, start_system: StartSystem, redis_settings: RedisSettings
) -> None:
    engine = await start_engine(tpot_ms=5, slots=1)
    system = await start_system(engine, gateways=0)
    async with QueueClient.connect(redis_settings) as one, QueueClient.connect(redis_settings) as other:
        running = await one.submit(MODEL, chat_bytes(max_tokens=60, stream=True), stream=True)
        waiting = await one.submit(MODEL, chat_bytes("later", max_tokens=2))
        view = await system.until(waiting.request_id, RequestState.WAITING)
        assert view.position == 0
        theirs, ours = await asyncio.gather(all_events(other, running.request_id), all_events(one, running.request_id))
        assert theirs == ours
        assert text_of(ours) == expected_text("hello", 60)
        assert (await one.result(waiting.request_id)).ok
        endless = await one.submit(MODEL, chat_bytes(max_tokens=100_000, stream=True), stream=True)
        await system.until(endless.request_id, RequestState.RUNNING)
        assert await other.cancel(endless.request_id) == "stopping"
        assert await system.until_outcome(endless.request_id) == "cancelled"
    assert await find_request(system.store, "no-such-request") is None
    await system.until_idle()


async def test_a_pool_that_is_forgotten_leaves_no_key(pool: PoolDriver) -> None:
    await pool.engine("e1")
    for key in (pool.keys.engine("e1"), pool.keys.leases):
        await pool.store.commands.delete(key)
    await DepartureKeeper(pool.store, pool.name).look()
    assert await namespace_keys(pool.store) == []


async def test_scripts_are_sent_to_every_node(pool: PoolDriver) -> None:
    """Each node has a cache of its own, and all of them are emptied."""
    for server in await pool.store.servers():
        await server.script_flush()
    pools = [PoolDriver(pool.store, pool.clock, f"{pool.name}-{number}") for number in range(12)]
    for one in pools:
        await one.accept("a")
    assert [await one.counters() for one in pools] == [{"accepted": 1}] * 12


async def test_a_request_in_no_place_is_found_on_the_node_that_has_its_pool(pool: PoolDriver) -> None:
    pools = [PoolDriver(pool.store, pool.clock, f"{pool.name}-{number}") for number in range(6)]
    for one in pools:
        await one.waiting("a")
        await one.store.commands.zrem(one.keys.waiting, "a")
        assert await Reconciler(one.store, one.name, spread_s=0).look() == 1
        assert await one.waiting_ids() == ["a"]


async def test_a_pipeline_over_several_slots_keeps_the_order_of_its_answers(pool: PoolDriver) -> None:
    names = [pool.store.keys.pool(f"m{number}").waiting for number in range(20)]
    pipe = pool.store.commands.pipeline(transaction=False)
    for number, name in enumerate(names):
        pipe.zadd(name, {"x": number})
        pipe.zscore(name, "x")
    answers = await pipe.execute()
    assert answers == [answer for number in range(20) for answer in (1, float(number))]
    again = pool.store.commands.pipeline(transaction=False)
    for name in names:
        again.delete(name)
    assert await again.execute() == [1] * 20


async def test_a_key_that_is_no_text_is_found(store: Store) -> None:
    """Somebody gave a model, a request or an engine a name that is no UTF-8."""
    key = store.keys.pool("m\udcff").waiting
    await store.commands.zadd(key, {"a": 1})
    assert await (await store.node_of(key)).zcard(key) == 1
    assert await store.commands.delete(key) == 1
    stream = store.keys.pool("m").assigned("e\udcff")
    entry = await store.commands.xadd(stream, {"a": "1"})
    ((_, entries),) = await store.commands.xread({stream: "0"})
    assert [entry_id for entry_id, _ in entries] == [entry]
    assert await store.commands.delete(stream) == 1
