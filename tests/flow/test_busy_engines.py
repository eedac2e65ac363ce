"""Engines that ask for a pause (429 or 503 with Retry-After): what is sent away waits for them, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson
import pytest
from aiohttp import web

from sagellm_control.wire.states import EngineState, RequestState

from .asking import CHAT_PATH, data
from .conftest import GOOD, StartEcho, StartSystem
from .echo_engine import EchoEngine
from .in_process import IN_TURN
from .test_engine_trouble import ASKED, ask, view_of

BUSY = b'{"error": {"message": "You exceeded your quota",  "vendor": 1}}'


def first(*answers: web.Response, then: bytes = GOOD) -> Callable[[web.Request], Awaitable[web.Response]]:
    """These answers, one after the other, and then the good one."""
    left = list(answers)

    async def answering(_: web.Request) -> web.Response:
        return left.pop(0) if left else web.Response(body=then, content_type="application/json")

    return answering


def busy(status: int, retry_after_s: float) -> web.Response:
    return web.Response(status=status, text="{}", headers={"Retry-After": str(retry_after_s)})


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_busy_engine_means_wait(bad: EchoEngine, start_system: StartSystem, status: int, stream: bool) -> None:
    bad.respond(first(busy(status, 0.3), busy(status, 0.3)))
    system = await start_system(bad, worker_max_attempts=1)
    began = asyncio.get_running_loop().time()
    assert await ask(system, "patient", stream=stream) == (200, GOOD)
    assert asyncio.get_running_loop().time() - began >= 0.6
    assert len(bad.reached) == 3, "it was asked again while it wanted to be left alone"
    view = await system.find("patient")
    assert view is not None
    assert (view.attempt, view.fields["failures"], view.fields["lapses"]) == (3, "0", "0")
    assert "excluded" not in view.fields
    await system.until_idle()


async def test_a_busy_engine_gets_nothing_else_and_the_other_one_all(
    bad: EchoEngine, good: EchoEngine, start_system: StartSystem
) -> None:
    bad.answer(b"{}", status=429, headers={"Retry-After": "30"})
    system = await start_system(bad, good, **IN_TURN)
    for _ in range(6):
        assert await ask(system) == (200, GOOD)
    assert len(bad.reached) == 1
    view = await view_of(system, bad)
    assert (view.state, view.reason) == (EngineState.READY, "it asked for a pause of 30 s")


async def test_a_pause_has_a_limit(bad: EchoEngine, start_system: StartSystem) -> None:
    bad.respond(first(busy(503, 100_000)))
    system = await start_system(bad, worker_longest_pause_s=0.2)
    assert await ask(system) == (200, GOOD)


@pytest.mark.parametrize("status", [429, 503])
async def test_engines_that_stay_busy_end_a_request_with_their_own_answer(
    bad: EchoEngine, start_echo: StartEcho, start_system: StartSystem, status: int
) -> None:
    engines = [bad, await start_echo()]
    for engine in engines:
        engine.answer(BUSY, status=status, headers={"Retry-After": "7"})
    system = await start_system(*engines, worker_longest_pause_s=0.05, worker_busy_patience_s=0.3)
    began = asyncio.get_running_loop().time()
    async with system.session.post(system.url + CHAT_PATH, json=ASKED) as response:
        assert (response.status, response.headers["Retry-After"]) == (status, "7")
        assert await response.read() == BUSY
        request_id = response.headers["X-Request-ID"]
    assert asyncio.get_running_loop().time() - began >= 0.3, "it did not wait"
    view = await system.until(request_id, RequestState.FINISHED)
    assert (view.outcome, view.fields["failures"]) == ("failed", "3")
    # The first answer at least was no failure, whatever became of the time.
    assert sum(len(engine.reached) for engine in engines) == view.attempt > 3
    await system.until_idle()


async def test_a_stream_that_waits_for_engines_that_stay_busy_ends_with_their_answer(
    bad: EchoEngine, start_system: StartSystem
) -> None:
    client_waits = asyncio.Event()

    async def refuse(_: web.Request) -> web.Response:
        await client_waits.wait()
        return web.Response(status=429, body=BUSY, headers={"Retry-After": "7"})

    bad.respond(refuse)
    system = await start_system(bad, gateway_keepalive_s=0.05, worker_longest_pause_s=0.05, worker_busy_patience_s=0.1)
    async with system.session.post(system.url + CHAT_PATH, json=ASKED | {"stream": True}) as response:
        assert response.status == 200
        assert (await response.content.readline()).startswith(b": waiting")
        client_waits.set()
        events = [event async for event in data(response)]
    assert events == [orjson.loads(BUSY)]
    await system.until_idle()


async def test_without_patience_a_busy_engine_fails_like_any_other(bad: EchoEngine, start_system: StartSystem) -> None:
    bad.answer(BUSY, status=429, headers={"Retry-After": "7"})
    system = await start_system(bad, worker_longest_pause_s=0.05, worker_busy_patience_s=0, worker_max_attempts=2)
    assert await ask(system) == (429, BUSY)
    assert len(bad.reached) == 2


async def test_a_pause_counts_although_the_answer_breaks_off(bad: EchoEngine, start_system: StartSystem) -> None:
    asked = 0

    async def refuse_first(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked > 2:
            return web.Response(body=GOOD, content_type="application/json")
        response = web.StreamResponse(status=429, headers={"Retry-After": "0.1", "Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.close()
        return response

    bad.respond(refuse_first)
    system = await start_system(bad, worker_max_attempts=1)
    assert await ask(system) == (200, GOOD)
