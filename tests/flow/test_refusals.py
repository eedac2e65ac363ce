"""What is not taken is refused at once, with OpenAI's error body, the right status and the field's name."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from sagellm_control.wire.states import RequestState

from .asking import CHAT_PATH, MODEL, chat, error_of
from .conftest import ENDLESS, SimulatedEngine, StartEcho, StartEngine, StartSystem
from .in_process import InProcessSystem

MESSAGES = [{"role": "user", "content": "hi"}]
COMPLETIONS, EMBEDDINGS = "/v1/completions", "/v1/embeddings"


@pytest.fixture
async def engine(start_engine: StartEngine) -> SimulatedEngine:
    return await start_engine()


@pytest.fixture
async def system(engine: SimulatedEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(engine)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT_PATH, b"", None),
        (CHAT_PATH, b"{", None),
        (CHAT_PATH, b"[1]", None),
        (CHAT_PATH, b"\xff\xfe", None),
        (CHAT_PATH, b"[" * 100_000, None),
        (CHAT_PATH, {"messages": MESSAGES}, "model"),
        (CHAT_PATH, {"model": 7, "messages": MESSAGES}, "model"),
        (CHAT_PATH, {"model": "", "messages": MESSAGES}, "model"),
        (CHAT_PATH, {"model": "x" * 257, "messages": MESSAGES}, "model"),
        (CHAT_PATH, {"model": MODEL}, "messages"),
        (CHAT_PATH, {"model": MODEL, "messages": "hi"}, "messages"),
        (CHAT_PATH, {"model": MODEL, "messages": []}, "messages"),
        (CHAT_PATH, {"model": MODEL, "messages": ["hi"]}, "messages[0].role"),
        (CHAT_PATH, {"model": MODEL, "messages": [*MESSAGES, {"content": "hi"}]}, "messages[1].role"),
        (CHAT_PATH, {"model": MODEL, "messages": MESSAGES, "stream": "yes"}, "stream"),
        (CHAT_PATH, {"model": MODEL, "messages": MESSAGES, "max_tokens": "many"}, "max_tokens"),
        (CHAT_PATH, {"model": MODEL, "messages": MESSAGES, "max_tokens": 1.5}, "max_tokens"),
        (CHAT_PATH, {"model": MODEL, "messages": MESSAGES, "max_completion_tokens": True}, "max_completion_tokens"),
        (CHAT_PATH, {"model": MODEL, "messages": MESSAGES, "user": 3}, "user"),
        (COMPLETIONS, {"model": MODEL}, "prompt"),
        (COMPLETIONS, {"model": MODEL, "prompt": []}, "prompt"),
        (COMPLETIONS, {"model": MODEL, "prompt": {"a": 1}}, "prompt"),
        (EMBEDDINGS, {"model": MODEL}, "input"),
        (EMBEDDINGS, {"model": MODEL, "input": 3}, "input"),
    ],
)
async def test_400_names_the_field(
    engine: SimulatedEngine, system: InProcessSystem, path: str, body: Any, param: str | None
) -> None:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    async with system.session.post(system.url + path, data=raw) as response:
        assert response.status == 400
        error = await error_of(response)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert param is None or param.partition(".")[0] in error["message"]
    assert (await engine.state())["total_requests"] == 0


async def test_deeply_nested_content_is_no_failure_of_ours(system: InProcessSystem) -> None:
    nested = b"[" * 600 + b"]" * 600
    raw = b'{"model":"simulated-1","messages":[{"role":"user","content":' + nested + b"}]}"
    async with system.session.post(system.url + CHAT_PATH, data=raw) as response:
        assert response.status < 500, await response.text()


async def test_404_for_an_unknown_model_lists_the_known_ones(system: InProcessSystem) -> None:
    async with system.session.post(system.url + CHAT_PATH, json=chat(model="gpt-9")) as response:
        assert response.status == 404
        error = await error_of(response)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "gpt-9" in error["message"]
    assert MODEL in error["message"]


async def test_404_for_an_unknown_path(system: InProcessSystem) -> None:
    async with system.session.post(f"{system.url}/v1/assistants", json={}) as response:
        assert response.status == 404
        assert "/v1/assistants" in (await error_of(response))["message"]


async def test_405_for_a_wrong_method(system: InProcessSystem) -> None:
    async with system.session.get(system.url + CHAT_PATH) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"
        assert (await error_of(response))["code"] == "method_not_allowed"


async def test_429_when_the_queue_is_full(start_engine: StartEngine, start_system: StartSystem) -> None:
    engine = await start_engine(slots=1, **ENDLESS)
    system = await start_system(engine, gateway_max_waiting=2)

    async def ask(request_id: str) -> None:
        headers = {"X-Request-ID": request_id}
        async with system.session.post(system.url + CHAT_PATH, json=chat(max_tokens=9), headers=headers) as response:
            await response.read()

    async with asyncio.TaskGroup() as clients:
        tasks = [clients.create_task(ask("runs"))]
        await system.until("runs", RequestState.RUNNING)
        tasks += [clients.create_task(ask(f"waits-{i}")) for i in range(2)]
        for i in range(2):
            await system.until(f"waits-{i}", RequestState.WAITING)
        async with system.session.post(system.url + CHAT_PATH, json=chat()) as response:
            assert response.status == 429
            error = await error_of(response)
            assert error["code"] == "queue_full"
            assert 1 <= int(response.headers["Retry-After"]) <= 60
        for task in tasks:
            task.cancel()
    for request_id in ("runs", "waits-0", "waits-1"):
        assert await system.until_outcome(request_id) == "cancelled"


async def test_503_when_no_engine_is_ready(start_engine: StartEngine, start_system: StartSystem) -> None:
    engine = await start_engine()
    system = await start_system(engine)
    pool = system.store.keys.pool(MODEL)
    # Its worker would write it again with the next renewal.
    await system.store.commands.zrem(pool.room, *[view.engine_id for view in await system.engine_views()])
    async with system.session.post(system.url + CHAT_PATH, json=chat()) as response:
        assert response.status == 503
        assert (await error_of(response))["code"] == "no_engine"
        assert int(response.headers["Retry-After"]) >= 1
        assert int(response.headers["x-ratelimit-remaining-requests"]) > 0


async def test_while_no_engine_has_registered_a_client_is_to_come_back(start_system: StartSystem) -> None:
    system = await start_system()
    async with system.session.post(system.url + CHAT_PATH, json=chat()) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        error = await error_of(response)
        assert error["code"] == "no_engine"
        assert "no engine has registered yet" in error["message"]
    async with system.session.get(f"{system.url}/v1/models/{MODEL}") as response:
        assert response.status == 503


@pytest.mark.parametrize("status", [400, 404, 413, 422])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_engines_refusal_is_passed_on_as_it_is(
    start_echo: StartEcho, start_system: StartSystem, status: int, stream: bool
) -> None:
    echo, other = await start_echo(), await start_echo()
    system = await start_system(echo, other)
    body = b'{"detail":[{"loc":["body","n"],  "msg":"too many"}]}'
    for engine in (echo, other):
        engine.answer(body, status=status, headers={"Retry-After": "7"})
    asked = {"model": "echo-1", "messages": MESSAGES, "stream": stream}
    async with system.session.post(system.url + CHAT_PATH, json=asked) as response:
        assert response.status == status
        assert response.headers["Retry-After"] == "7"
        assert await response.read() == body
        request_id = response.headers["X-Request-ID"]
    assert len(echo.reached) + len(other.reached) == 1, "a refused request was tried again"
    assert await system.until_outcome(request_id) == "refused"
    await system.until_idle()
