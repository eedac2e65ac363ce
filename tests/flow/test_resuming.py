"""A client that lost its connection comes back for the rest: at any gateway, from any position."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import orjson
import pytest

from sagellm_control.gateway.api_keys import hash_key
from sagellm_control.keeper.orphans import OrphanKeeper
from sagellm_control.store.inspect import server_ms
from sagellm_control.wire.states import RequestState

from ..waiting import wait_until
from .asking import CHAT_PATH, MODEL, chat, delta_of, error_of, expected_text, pieces
from .conftest import SimulatedEngine, StartEngine, StartSystem
from .in_process import InProcessSystem

IDS = {"X-Event-IDs": "true"}


@pytest.fixture
async def engine(start_engine: StartEngine) -> SimulatedEngine:
    return await start_engine(tpot_ms=3)


@pytest.fixture
async def system(engine: SimulatedEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(engine, gateways=2)


async def numbered(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """Id and data of each event."""
    async for part in pieces(response):
        if part.startswith(b":"):
            continue
        event_id, payload = part.split(b"\n", 1)
        assert event_id.startswith(b"id: ")
        assert payload.startswith(b"data: ")
        value = payload.removeprefix(b"data: ")
        yield event_id.removeprefix(b"id: ").decode(), value.decode() if value == b"[DONE]" else orjson.loads(value)


def requests(system: InProcessSystem, request_id: str, rest: str = "", gateway: int = 0) -> str:
    return f"{system.gateways[gateway]}/v1/requests/{request_id}{rest}"


async def events(
    system: InProcessSystem, request_id: str, after: str | None = None, gateway: int = 0
) -> list[tuple[str, Any]]:
    """The events behind a position."""
    headers = {} if after is None else {"Last-Event-ID": after}
    async with system.session.get(requests(system, request_id, "/events", gateway), headers=headers) as response:
        assert response.status in (200, 204), await response.text()
        assert response.headers["X-Request-ID"] == request_id
        return [event async for event in numbered(response)]


def text_of(found: list[tuple[str, Any]]) -> str:
    return "".join(delta_of(value) for _, value in found)


async def ask(system: InProcessSystem, text: str = "hello", tokens: int = 30, **headers: str) -> tuple[str, list[Any]]:
    """A whole stream with ids; the request's id and the events."""
    body = chat(text, max_tokens=tokens, stream=True)
    async with system.session.post(system.url + CHAT_PATH, json=body, headers=IDS | headers) as response:
        assert response.status == 200, await response.text()
        return response.headers["X-Request-ID"], [event async for event in numbered(response)]


async def leave_after(system: InProcessSystem, count: int, tokens: int, gateway: int = 0, **headers: str) -> Any:
    """Read so many events and drop the connection; the request's id and what was read."""
    body = chat(max_tokens=tokens, stream=True)
    url = system.gateways[gateway] + CHAT_PATH
    async with system.session.post(url, json=body, headers=IDS | headers) as response:
        found: list[tuple[str, Any]] = []
        async for event in numbered(response):
            found.append(event)
            if len(found) == count:
                break
        response.close()
        return response.headers["X-Request-ID"], found


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


async def test_nobody_comes_back_in_time(engine: SimulatedEngine, start_system: StartSystem) -> None:
    system = await start_system(engine, gateway_orphan_grace_s=0.05)
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


@pytest.mark.parametrize(
    ("method", "rest"), [("GET", ""), ("GET", "/events"), ("GET", "/result"), ("DELETE", "")], ids=str
)
@pytest.mark.parametrize("request_id", ["never-sent", "a:b", "x" * 200])
async def test_an_unknown_request(system: InProcessSystem, method: str, rest: str, request_id: str) -> None:
    async with system.session.request(method, requests(system, request_id, rest)) as response:
        assert response.status == 404
        assert (await error_of(response))["code"] == "request_not_found"


async def test_another_tenants_request_is_unknown(
    engine: SimulatedEngine, start_system: StartSystem, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        "".join(
            f'[[keys]]\nsha256 = "{hash_key(name)}"\ntenant = "{tenant}"\n'
            for name, tenant in [("anna-1", "anna"), ("anna-2", "anna"), ("ben", "ben")]
        )
    )
    system = await start_system(engine, gateway_api_keys=keys)
    request_id, _ = await ask(system, tokens=2, Authorization="Bearer anna-1")
    for key, status in (("anna-1", 200), ("anna-2", 200), ("ben", 404), ("nobody", 401)):
        for method, rest in (("GET", ""), ("GET", "/events"), ("GET", "/result"), ("DELETE", "")):
            headers = {"Authorization": f"Bearer {key}"}
            async with system.session.request(method, requests(system, request_id, rest), headers=headers) as response:
                assert response.status == status, (key, method, rest)


async def test_how_a_request_stands(system: InProcessSystem) -> None:
    request_id, _ = await leave_after(system, 1, 5000, **{"X-Request-Priority": "HIGH"})
    async with system.session.get(requests(system, request_id)) as response:
        shown = await response.json()
    assert (shown["id"], shown["state"], shown["priority"]) == (request_id, "running", "high")
    assert (shown["attempt"], shown["outcome"], shown["stream"], shown["model"]) == (1, None, True, MODEL)
    assert shown["engine"] == (await system.engine_views())[0].engine_id
    assert shown["arrived_at"] <= shown["assigned_at"] <= shown["started_at"]
    for result in ("stopping", "finished"):
        async with system.session.delete(requests(system, request_id, gateway=1)) as response:
            assert await response.json() == {"id": request_id, "object": "request.cancellation", "result": result}
        await system.until_outcome(request_id)
    async with system.session.get(requests(system, request_id)) as response:
        shown = await response.json()
    assert (shown["state"], shown["outcome"], shown["status"]) == ("finished", "cancelled", 499)
    assert shown["finished_at"] >= shown["arrived_at"]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_result_is_what_the_request_would_have_got(system: InProcessSystem, stream: bool) -> None:
    body = chat(max_tokens=8, stream=stream)
    async with system.session.post(system.url + CHAT_PATH, json=body) as response:
        request_id, whole = response.headers["X-Request-ID"], await response.read()
        kind = response.headers["Content-Type"]
    for gateway in (0, 1):
        async with system.session.get(requests(system, request_id, "/result", gateway)) as response:
            assert (response.status, await response.read()) == (200, whole)
            assert response.headers["Content-Type"].partition(";")[0] == kind.partition(";")[0]


async def test_the_result_is_waited_for(system: InProcessSystem) -> None:
    request_id, _ = await leave_after(system, 1, 100)
    async with system.session.get(requests(system, request_id, "/result", 1)) as response:
        whole = await response.read()
    parts = [orjson.loads(part.removeprefix(b"data: ")) for part in whole.split(b"\n\n")[:-2]]
    assert "".join(map(delta_of, parts)) == expected_text("hello", 100)


async def test_a_whole_answer_as_events_and_an_error_as_an_event(system: InProcessSystem) -> None:
    async with system.session.post(system.url + CHAT_PATH, json=chat(max_tokens=3)) as response:
        request_id, answer = response.headers["X-Request-ID"], await response.json()
    ((event_id, value),) = await events(system, request_id)
    assert value == answer
    assert await events(system, request_id, event_id) == []
    async with system.session.post(system.url + CHAT_PATH, json=chat(n=1_000_000)) as response:
        assert response.status == 400
        request_id, answer = response.headers["X-Request-ID"], await response.json()
    assert [value for _, value in await events(system, request_id)] == [answer]
    async with system.session.get(requests(system, request_id, "/result")) as response:
        assert (response.status, await response.json()) == (400, answer)


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
        await db.zadd(system.store.keys.gateways(), {inbox: await server_ms(system.store) - 1})
        await OrphanKeeper(system.store, MODEL).look()
        assert await db.zscore(keys.orphans, request_id) is not None
        found = await events(system, request_id)
    assert await db.zscore(keys.orphans, request_id) is None
    assert text_of(found) == expected_text("hello", 300)
