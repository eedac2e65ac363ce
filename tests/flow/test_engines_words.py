"""What an engine says of an error reaches the client in whatever form, also in a stream that has begun."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from aiohttp import web

from sagellm_control.cli.ask import Question, ask
from sagellm_control.wire.priority import RequestPriority

from .asking import CHAT_PATH, data
from .conftest import StartSystem
from .echo_engine import EchoEngine
from .numbered_events import events, requests

ASKED = {"model": "echo-1", "messages": [{"role": "user", "content": "hi"}], "stream": True}
VLLM = {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400}
FASTAPI = {"detail": [{"loc": ["body", "n"], "msg": "Field required"}]}


@pytest.mark.parametrize(
    ("status", "body", "message", "code"),
    [
        (400, orjson.dumps(VLLM), "too long", 400),
        (422, orjson.dumps(FASTAPI), "Field required", 422),
        (503, b"Service busy", "Service busy", 503),
    ],
)
async def test_behind_a_comment_the_reason_is_there(
    bad: EchoEngine, start_system: StartSystem, status: int, body: bytes, message: str, code: int
) -> None:
    begun = asyncio.Event()

    async def late(_: web.Request) -> web.Response:
        await begun.wait()
        return web.Response(status=status, body=body)

    bad.respond(late)
    system = await start_system(bad, gateway_keepalive_s=0.05, worker_max_attempts=1)
    async with system.session.post(system.url + CHAT_PATH, json=ASKED) as response:
        assert response.status == 200, "a comment has gone out"
        begun.set()
        (last,) = [event async for event in data(response)]
        request_id = response.headers["X-Request-ID"]
    assert (last["error"]["message"], last["error"]["code"]) == (message, code)
    assert [event for _, event in await events(system, request_id)] == [last]


async def test_how_a_refused_request_stands_says_why(bad: EchoEngine, start_system: StartSystem) -> None:
    bad.answer(orjson.dumps(VLLM), status=400)
    system = await start_system(bad)
    async with system.session.post(system.url + CHAT_PATH, json=ASKED) as response:
        assert (response.status, await response.json(content_type=None)) == (400, VLLM)
        request_id = response.headers["X-Request-ID"]
    async with system.session.get(requests(system, request_id)) as response:
        assert (await response.json())["message"] == "too long"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, orjson.dumps(VLLM), "too long"),
        (422, orjson.dumps(FASTAPI), "Field required"),
        (422, b'{"reason": 7}', '{"reason": 7}'),
    ],
)
async def test_enqueue_says_the_reason(
    bad: EchoEngine,
    start_system: StartSystem,
    capsys: pytest.CaptureFixture[str],
    status: int,
    body: bytes,
    message: str,
) -> None:
    bad.answer(body, status=status)
    system = await start_system(bad)
    question = Question(None, ASKED, RequestPriority.NORMAL, tenant="", timeout_s=None, as_text=True)
    assert await ask(system.redis, question) is False
    assert capsys.readouterr().err.splitlines()[-1] == f"Error: refused ({status}): {message}"
