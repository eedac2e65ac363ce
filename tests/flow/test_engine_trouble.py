"""Engines that are overloaded, hang, or never stop, and one that comes back: each in front of a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from sagellm_control.store.views import EngineView
from sagellm_control.wire.states import EngineState
from sagellm_workers.health.health import NOT_ANSWERING

from ..waiting import wait_until
from .asking import CHAT_PATH, error_of
from .conftest import GOOD, StartEcho, StartSystem
from .echo_engine import EVENTS, Answering, EchoEngine
from .in_process import IN_TURN, InProcessSystem

ASKED = {"model": "echo-1", "messages": [{"role": "user", "content": "hi"}]}
TOKEN = b'data: {"token":1}\n\n'


async def ask(system: InProcessSystem, request_id: str = "", **fields: object) -> tuple[int, bytes]:
    # What is shown here is one engine's failure, and not how another one goes on.
    headers = {"X-Mid-Stream-Retry": "never"} | ({"X-Request-ID": request_id} if request_id else {})
    async with system.session.post(system.url + CHAT_PATH, json=ASKED | fields, headers=headers) as response:
        return response.status, await response.read()


async def view_of(system: InProcessSystem, engine: EchoEngine) -> EngineView:
    return next(view for view in await system.engine_views() if view.url == engine.url)


async def until_view(system: InProcessSystem, engine: EchoEngine, is_so: Callable[[EngineView], bool]) -> EngineView:
    async def look() -> EngineView | None:
        view = await view_of(system, engine)
        return view if is_so(view) else None

    return await wait_until(look, what="the engine's row")


@pytest.mark.parametrize("silent", [False, True])
async def test_an_engine_that_is_not_well_when_it_is_found_is_given_nothing(
    bad: EchoEngine, start_system: StartSystem, silent: bool
) -> None:
    bad.healthy, bad.silent = False, silent
    bad.answer(GOOD)
    system = await start_system()
    async with system.worker(bad.url, health_timeout_s=0.2):
        await wait_until(system.engine_views, what="it is registered")
        view = await view_of(system, bad)
        assert (view.state, view.reason) == (EngineState.ERROR, NOT_ANSWERING)
        bad.healthy, bad.silent = True, False
        await until_view(system, bad, lambda v: v.state is EngineState.READY)
        assert await ask(system) == (200, GOOD)


async def test_an_engine_that_comes_back_starts_slowly(bad: EchoEngine, start_system: StartSystem) -> None:
    system = await start_system(bad, worker_slow_start_s=2)
    bad.healthy = False
    await until_view(system, bad, lambda v: v.state is EngineState.ERROR)
    bad.healthy = True
    bad.answer(GOOD)
    seen: set[str] = set()

    async def whole_again() -> bool:
        view = await view_of(system, bad)
        seen.add(view.reason)
        room = await system.store.commands.zscore(system.store.keys.pool("echo-1").room, view.engine_id)
        return room == 4

    await wait_until(whole_again, what="it has all its places")
    assert {"slow start: 1 of 4 places", "slow start: 2 of 4 places"} <= seen
    assert await ask(system) == (200, GOOD)


async def test_who_waits_gets_the_places_as_they_come(start_echo: StartEcho, start_system: StartSystem) -> None:
    """No wake-up but the ramp's own: nobody finishes, nobody arrives."""
    engine = await start_echo(slots=4)
    release = asyncio.Event()

    async def held(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response(body=GOOD, content_type="application/json")

    engine.respond(held)
    system = await start_system(engine, worker_slow_start_s=0.6, scheduler_sweep_s=60)
    engine.healthy = False
    await until_view(system, engine, lambda v: v.state is EngineState.ERROR)
    engine.healthy = True
    await until_view(system, engine, lambda v: v.state is EngineState.READY)
    clients = [asyncio.create_task(ask(system)) for _ in range(4)]
    await wait_until(lambda: len(engine.reached) == 4, what="all have reached it")
    release.set()
    assert await asyncio.gather(*clients) == [(200, GOOD)] * 4


async def hang(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError("it hangs for ever")


async def test_an_engine_that_hangs_is_left(bad: EchoEngine, good: EchoEngine, start_system: StartSystem) -> None:
    bad.respond(hang)
    system = await start_system(bad, good, **IN_TURN, worker_first_byte_timeout_s=0.2)
    for _ in range(2):
        assert await ask(system) == (200, GOOD)
    assert bad.reached
    await wait_until(lambda: bad.aborted == len(bad.reached), what="its connections are closed")


async def test_an_engine_that_streams_and_answers_no_probe_keeps_its_requests(
    bad: EchoEngine, start_system: StartSystem
) -> None:
    release = asyncio.Event()

    async def speaks(response: web.StreamResponse, _: web.Request) -> None:
        while not release.is_set():
            await response.write(TOKEN)
            await asyncio.sleep(0.01)
        await response.write(b"data: [DONE]\n\n")

    speaking = streaming(speaks)

    async def answering(request: web.Request) -> web.StreamResponse:
        if b"stream" in await request.read():
            return await speaking(request)
        await release.wait()
        return web.Response(body=GOOD, content_type="application/json")

    bad.respond(answering)
    system = await start_system(bad, worker_health_timeout_s=0.3, worker_survey_interval_s=0.1)
    asking = [asyncio.create_task(ask(system, stream=True)), asyncio.create_task(ask(system))]
    await wait_until(lambda: len(bad.reached) == 2, what="both run")
    surveyed = bad.surveys
    await wait_until(lambda: bad.surveys > surveyed + 1, what="it is surveyed meanwhile, and found as it was")
    bad.silent = True
    before = bad.probes
    await wait_until(lambda: bad.probes > before + 7, what="it is probed again and again")
    assert (await view_of(system, bad)).state is EngineState.READY
    release.set()
    (status, streamed), plain = await asyncio.gather(*asking)
    assert (status, streamed[-len(b"data: [DONE]\n\n") :]) == (200, b"data: [DONE]\n\n")
    assert plain == (200, GOOD)
    assert len(bad.reached) == 2, "something was begun anew"


def streaming(write: Callable[[web.StreamResponse, web.Request], Awaitable[None]]) -> Answering:
    async def answering(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": EVENTS})
        await response.prepare(request)
        await response.write(TOKEN)
        await write(response, request)
        return response

    return answering


async def falls_silent(response: web.StreamResponse, _: web.Request) -> None:
    await asyncio.Event().wait()


async def sends_half_a_line(response: web.StreamResponse, request: web.Request) -> None:
    await asyncio.sleep(0.05)
    await response.write(b'data: {"tok')
    assert request.transport is not None
    request.transport.close()


async def closes_one_half(response: web.StreamResponse, request: web.Request) -> None:
    await asyncio.sleep(0.05)
    assert request.transport is not None
    raw = request.transport.get_extra_info("socket")
    raw.shutdown(socket.SHUT_WR)
    await asyncio.Event().wait()


async def never_stops(response: web.StreamResponse, _: web.Request) -> None:
    while True:
        await response.write(TOKEN * 1000)


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (falls_silent, "engine_timeout"),
        (sends_half_a_line, "engine_broken"),
        (closes_one_half, "engine_broken"),
        (never_stops, "engine_broken"),
    ],
)
async def test_a_stream_that_goes_wrong_ends_with_whole_events_and_an_error(
    bad: EchoEngine, start_system: StartSystem, write: Callable[..., Awaitable[None]], code: str
) -> None:
    bad.respond(streaming(write))
    system = await start_system(bad, worker_gap_timeout_s=0.3, worker_answer_limit_bytes=2**20)
    status, body = await ask(system, stream=True)
    assert status == 200
    *events, last = body.removesuffix(b"\n\n").split(b"\n\n")
    assert events
    assert set(events) == {TOKEN.strip()}
    assert f'"code":"{code}"'.encode() in last
    assert len(body) < 2 * 2**20
    await system.until_idle()
    await wait_until(lambda: bad.aborted or write is sends_half_a_line, what="its connection is closed")


async def test_an_answer_of_a_hundred_megabytes(bad: EchoEngine, start_system: StartSystem) -> None:
    sent = 0

    async def huge(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"x" * 2**20)
            sent += 2**20
        return response

    bad.respond(huge)
    system = await start_system(bad, worker_max_attempts=1, worker_answer_limit_bytes=8 * 2**20)
    async with system.session.post(system.url + CHAT_PATH, json=ASKED) as response:
        assert response.status == 502
        error = await error_of(response)
    assert error["code"] == "engine_broken"
    assert "longer than 8388608 bytes" in error["message"]
    assert sent < 40 * 2**20, "it was read to its end"
    await system.until_idle()
