"""A client that lost its connection comes back for the rest: at any gateway, from any position."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import openai
import pytest

from sagellm_control.keeper.orphans import OrphanKeeper
from sagellm_control.store.inspect import clock_of
from sagellm_control.store.settings import RedisSettings
from sagellm_control.wire.states import RequestState

from ..waiting import wait_until
from .asking import CHAT_PATH, MODEL, chat, error_of, expected_text, pieces
from .conftest import SimulatedEngine, StartEngine, StartSystem
from .in_process import GATEWAY, InProcessSystem, in_process_system
from .numbered_events import IDS, ask, events, leave_after, numbered, requests, text_of


@pytest.fixture
async def engine(start_engine: StartEngine) -> SimulatedEngine:
    return await start_engine(tpot_ms=3)


@pytest.fixture
async def system(engine: SimulatedEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(engine, gateways=2)


async def test_ids_are_given_to_who_asks(system: InProcessSystem) -> None:
    _, with_ids = await ask(system)
    assert text_of(with_ids) == expected_text("hello", 30)
    assert with_ids[-1][1] == "[DONE]"
    ids = [event_id for event_id, _ in with_ids]
    assert len(set(ids)) == len(ids)
    async with system.session.post(system.url + CHAT_PATH, json=chat(stream=True, max_tokens=3)) as response:
        assert b"id: " not in await response.read()
    async with system.session.post(
        system.url + CHAT_PATH, json=chat(stream=True), headers={"X-Event-IDs": "perhaps"}
    ) as response:
        assert response.status == 400
        assert (await error_of(response))["param"] == "X-Event-IDs"


async def test_behind_every_event_comes_the_rest(system: InProcessSystem) -> None:
    request_id, whole = await ask(system, tokens=20)
    assert await events(system, request_id) == whole
    for number, (event_id, _) in enumerate(whole):
        assert await events(system, request_id, event_id, gateway=number % 2) == whole[number + 1 :]


async def test_behind_the_end_there_is_nothing(system: InProcessSystem) -> None:
    request_id, whole = await ask(system, tokens=2)
    url = requests(system, request_id, "/events")
    (end, _), *_ = await system.store.commands.xrevrange(system.store.keys.pool(MODEL).output(request_id))
    for last in (whole[-1][0], end.decode()):
        async with system.session.get(url, headers={"Last-Event-ID": last}) as response:
            # A browser's EventSource would come again for ever after anything else.
            assert response.status == 204


@pytest.mark.parametrize("gateway", [0, 1])
async def test_a_client_that_lost_its_connection_comes_back_twice(system: InProcessSystem, gateway: int) -> None:
    request_id, first = await leave_after(system, 5, 100)
    async with system.session.get(
        requests(system, request_id, "/events", gateway), headers={"Last-Event-ID": first[-1][0]}
    ) as response:
        second: list[tuple[str, Any]] = []
        async for event in numbered(response):
            second.append(event)
            if len(second) == 5:
                break
        response.close()
    third = await events(system, request_id, second[-1][0], gateway=1 - gateway)
    assert text_of(first + second + third) == expected_text("hello", 100)
    assert third[-1][1] == "[DONE]"
    await system.until_idle()


async def test_who_does_not_ask_for_ids_cancels_by_leaving(system: InProcessSystem, engine: SimulatedEngine) -> None:
    request_id, _ = await leave_after(system, 1, 5000)
    async with system.session.post(system.url + CHAT_PATH, json=chat(max_tokens=5000, stream=True)) as response:
        await anext(pieces(response))
        plain = response.headers["X-Request-ID"]
    assert await system.until_outcome(plain) == "cancelled"
    assert (await system.until(request_id, RequestState.RUNNING)).outcome == ""
    async with system.session.delete(requests(system, request_id)) as response:
        assert response.status == 200
    assert await system.until_outcome(request_id) == "cancelled"


async def test_nobody_comes_back_in_time(engine: SimulatedEngine, redis_settings: RedisSettings) -> None:
    impatient = redis_settings.model_copy(update={"command_timeout_s": 0.5, "connect_timeout_s": 0.5})
    gateway = GATEWAY.model_copy(update={"orphan_grace_s": 0.05})
    async with in_process_system(impatient, [engine.url], gateway=gateway) as system:
        request_id, _ = await leave_after(system, 1, 5000)
        assert await system.until_outcome(request_id) == "cancelled"
        await system.until_idle()


async def test_a_second_reader_keeps_it_alive(system: InProcessSystem) -> None:
    """The first connection is found dead only after the client has come back."""
    body = chat(max_tokens=200, stream=True)
    async with system.session.post(system.url + CHAT_PATH, json=body) as response:
        await anext(pieces(response))
        request_id = response.headers["X-Request-ID"]
        rest = asyncio.create_task(events(system, request_id, gateway=1))
        key = system.store.keys.pool(MODEL).record(request_id)

        async def attached() -> bool:
            return b" " in (await system.store.commands.hget(key, "inbox") or b"")

        await wait_until(attached, what="the second gateway listens")
        response.close()
    assert text_of(await rest) == expected_text("hello", 200)


async def test_with_an_engine_lost_meanwhile(start_engine: StartEngine, start_system: StartSystem) -> None:
    engines = [await start_engine(tpot_ms=5, cut_rate=0.6, cut_after_tokens=7, fault_seed=seed) for seed in (1, 2)]
    system = await start_system(*engines, gateways=2, worker_max_attempts=20)
    for _ in range(4):
        request_id, whole = await ask(system, tokens=40)
        assert text_of(whole) == expected_text("hello", 40)
        for number in range(0, len(whole), 5):
            assert await events(system, request_id, whole[number][0], gateway=1) == whole[number + 1 :]
    assert sum([(await engine.state())["faulted"] for engine in engines]) > 0


@pytest.mark.parametrize("bad", ["x", "1", "1-2-3", "1-2.0", "-1-2"])
async def test_an_id_that_is_none(system: InProcessSystem, bad: str) -> None:
    request_id, _ = await ask(system, tokens=2)
    url = requests(system, request_id, "/events")
    async with system.session.get(url, headers={"Last-Event-ID": bad}) as response:
        assert response.status == 400
        assert (await error_of(response))["param"] == "Last-Event-ID"


async def test_the_official_client_takes_ids_as_they_come(system: InProcessSystem) -> None:
    client = openai.AsyncOpenAI(base_url=f"{system.url}/v1", api_key="none", max_retries=0, default_headers=IDS)
    async with client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=20, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == expected_text("hello", 20)
        # And it reads the events of a request as a stream of its own.
        request_id = stream.response.headers["X-Request-ID"]
        again = await client.get(
            f"/requests/{request_id}/events",
            cast_to=openai.types.chat.ChatCompletionChunk,
            stream=True,
            stream_cls=openai.AsyncStream[openai.types.chat.ChatCompletionChunk],
        )
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in again]) == text


async def test_a_client_that_comes_back_to_another_gateway_keeps_its_request(system: InProcessSystem) -> None:
    """The keeper has noted the request of a lost gateway; whoever asks for it takes it off that list."""
    body = chat(max_tokens=300, stream=True)
    async with system.session.post(system.gateways[1] + CHAT_PATH, json=body) as response:
        await anext(pieces(response))
        request_id = response.headers["X-Request-ID"]
        keys, db = system.store.keys.pool(MODEL), system.store.commands
        inbox = (await db.hget(keys.record(request_id), "inbox")).decode()
        await db.zadd(
            system.store.keys.gateways(), {inbox: await clock_of(system.store, system.store.keys.gateways()) - 1}
        )
        moments = itertools.count(step=100)  # it is patient, and this test is not
        keeper = OrphanKeeper(system.store, MODEL, monotonic=lambda: float(next(moments)))
        for _ in range(2):
            await keeper.look()
        assert await db.zscore(keys.orphans, request_id) is not None
        found = await events(system, request_id)
    assert await db.zscore(keys.orphans, request_id) is None
    assert text_of(found) == expected_text("hello", 300)
