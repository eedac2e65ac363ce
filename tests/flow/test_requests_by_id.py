"""How a request stands, its result and its end, asked for by its id."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from sagellm_control.gateway.api_keys import hash_key

from .asking import CHAT_PATH, MODEL, chat, delta_of, error_of, expected_text
from .conftest import SimulatedEngine, StartEngine, StartSystem
from .in_process import InProcessSystem
from .numbered_events import ask, events, leave_after, requests


@pytest.fixture
async def engine(start_engine: StartEngine) -> SimulatedEngine:
    return await start_engine(tpot_ms=3)


@pytest.fixture
async def system(engine: SimulatedEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(engine, gateways=2)


WAYS_TO_ASK = (("GET", ""), ("GET", "/events"), ("GET", "/result"), ("GET", "/explain"), ("DELETE", ""))


@pytest.mark.parametrize(("method", "rest"), WAYS_TO_ASK, ids=str)
@pytest.mark.parametrize("request_id", ["never-sent", "a:b", "x" * 200])
async def test_an_unknown_request(system: InProcessSystem, method: str, rest: str, request_id: str) -> None:
    async with system.session.request(method, requests(system, request_id, rest)) as response:
        assert response.status == 404
        error = await error_of(response)
        assert (error["code"], error["param"]) == ("request_not_found", "id")


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
        for method, rest in WAYS_TO_ASK:
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


@pytest.mark.parametrize("part", ["/events", "/result"])
async def test_no_answer_is_waited_for_to_be_thrown_away(system: InProcessSystem, part: str) -> None:
    async with system.session.post(system.url + CHAT_PATH, json=chat(max_tokens=3)) as response:
        request_id = response.headers["X-Request-ID"]
    async with system.session.head(requests(system, request_id, part)) as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET")


async def test_a_result_whose_output_is_gone_is_unknown(system: InProcessSystem) -> None:
    """Both expire at once, and not both are gone when one is."""
    request_id, _ = await ask(system, tokens=2)
    await system.until_outcome(request_id)
    keys = system.store.keys.pool(MODEL)
    await system.store.commands.delete(keys.output(request_id))
    async with asyncio.timeout(20), system.session.get(requests(system, request_id, "/result")) as response:
        assert (response.status, (await error_of(response))["code"]) == (404, "request_not_found")
