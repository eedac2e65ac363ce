"""An engine that streams though a whole answer was asked for, and does not come to its end."""

from __future__ import annotations

import asyncio

import aiohttp
import orjson
import pytest

from sagellm_control.wire.states import RequestState

from .asking import CHAT_PATH
from .conftest import StartSystem
from .echo_engine import EchoEngine
from .numbered_events import numbered, requests
from .test_engine_trouble import ASKED, TOKEN

DONE = b"data: [DONE]\n\n"
DIED = {"error": {"message": "out of memory", "type": "server_error", "param": None, "code": 500}}


async def _is_error(response: aiohttp.ClientResponse, status: int, code: object) -> None:
    """Nothing of what the engine had said before."""
    body = await response.read()
    assert (response.status, response.content_type) == (status, "application/json"), body
    answer = orjson.loads(body)
    assert set(answer) == {"error"}
    assert answer["error"]["code"] == code


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("fails", 502, 500),
        ("is cut off", 502, "engine_broken"),
        ("is cancelled", 499, "cancelled"),
        ("expires", 504, "deadline_exceeded"),
    ],
)
async def test_its_error_is_an_error_alone(
    bad: EchoEngine, start_system: StartSystem, how: str, status: int, code: object
) -> None:
    rest = {"fails": b"data: " + orjson.dumps(DIED) + b"\n\n", "is cut off": b'data: {"tok'}.get(how, DONE)
    gate = asyncio.Event()
    bad.stream([TOKEN, rest], gate=gate, cut=how == "is cut off")
    system = await start_system(bad, worker_max_attempts=1)
    headers = {"X-Request-ID": "unasked"} | ({"X-Request-Timeout-Ms": "3000"} if how == "expires" else {})

    async def whole() -> None:
        async with system.session.post(system.url + CHAT_PATH, json=ASKED, headers=headers) as response:
            await _is_error(response, status, code)

    asked = asyncio.create_task(whole())
    await system.until("unasked", RequestState.RUNNING)
    async with system.session.get(requests(system, "unasked", "/events")) as response:
        assert (await anext(numbered(response)))[1] == {"token": 1}, "it has said something"
        if how == "is cancelled":
            async with system.session.delete(requests(system, "unasked")) as cancelled:
                assert cancelled.status == 200
        elif how != "expires":
            gate.set()
        await asked
    async with system.session.get(requests(system, "unasked", "/result")) as response:
        await _is_error(response, status, code)


async def test_one_that_comes_to_its_end_is_passed_on(bad: EchoEngine, start_system: StartSystem) -> None:
    bad.stream([TOKEN, DONE])
    system = await start_system(bad)
    async with system.session.post(system.url + CHAT_PATH, json=ASKED) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert await response.read() == TOKEN + DONE
