"""A client that leaves takes its request with it, wherever it is: nobody makes tokens that nobody reads."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import pytest
from aiohttp import web

from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.store.settings import RedisSettings
from sagellm_control.wire.states import RequestState

from ..waiting import wait_until
from .asking import CHAT_PATH, MODEL, chat, data, expected_text
from .conftest import SimulatedEngine, StartEcho, StartEngine, StartSystem
from .in_process import InProcessSystem, in_process_system

LONG = {"max_tokens": 100_000}
"""Half an hour's answer; between two tokens the engine sees what has changed."""
TPOT_MS = 20
LARGE = 300_000
"""Bytes; larger than anything else that is sent to Redis here."""

PROMPT_S = 1.0
"""Much more than it takes on a busy machine (see ``benchmarks.cancellation``), much less than if it had to wait."""

BOTH_KINDS = pytest.mark.parametrize("stream", [False, True])


@pytest.fixture
async def engine(start_engine: StartEngine) -> SimulatedEngine:
    """With one place."""
    return await start_engine(slots=1, tpot_ms=TPOT_MS)


def _client(system: InProcessSystem, request_id: str, **fields: Any) -> asyncio.Task[bytes]:
    async def ask() -> bytes:
        headers = {"X-Request-ID": request_id}
        body = chat(request_id, **{**LONG, **fields})
        async with system.session.post(system.url + CHAT_PATH, json=body, headers=headers) as response:
            return await response.read()

    return asyncio.create_task(ask(), name=request_id)


async def _leave(client: asyncio.Task[bytes]) -> None:
    client.cancel()
    await asyncio.wait({client})
    assert client.cancelled()


async def _works(system: InProcessSystem) -> None:
    """The place that came free is usable."""
    body = chat("still there?", max_tokens=1)
    async with asyncio.timeout(20), system.session.post(system.url + CHAT_PATH, json=body) as response:
        answer = await response.json()
    assert answer["choices"][0]["message"]["content"] == expected_text("still there?", 1)


@BOTH_KINDS
async def test_while_it_is_queued(engine: SimulatedEngine, start_system: StartSystem, stream: bool) -> None:
    system = await start_system(engine, schedulers=0)
    client = _client(system, "queued", stream=stream)
    await system.until("queued", RequestState.QUEUED)
    await _leave(client)
    assert await system.until_outcome("queued") == "cancelled"
    assert await system.store.commands.xlen(system.store.keys.pool(MODEL).intake[2]) == 0
    assert (await engine.state())["total_requests"] == 0


@BOTH_KINDS
async def test_while_it_waits(engine: SimulatedEngine, start_system: StartSystem, stream: bool) -> None:
    system = await start_system(engine)
    running = _client(system, "running")
    await system.until("running", RequestState.RUNNING)
    waiting = _client(system, "waiting", stream=stream)
    await system.until("waiting", RequestState.WAITING)
    await _leave(waiting)
    assert await system.until_outcome("waiting") == "cancelled"
    assert await system.store.commands.zcard(system.store.keys.pool(MODEL).waiting) == 0
    await _leave(running)
    await system.until_idle()
    assert (await engine.state())["total_requests"] == 1


@BOTH_KINDS
async def test_while_it_runs(engine: SimulatedEngine, start_system: StartSystem, stream: bool) -> None:
    system = await start_system(engine)
    client = _client(system, "running", stream=stream)
    await system.until("running", RequestState.RUNNING)
    await engine.until(running=1)
    await _leave(client)
    await engine.until(aborted=1, running=0)
    assert await system.until_outcome("running") == "cancelled"
    await system.until_idle()
    await _works(system)


async def test_the_place_goes_to_who_waits(engine: SimulatedEngine, start_system: StartSystem) -> None:
    system = await start_system(engine)
    first = _client(system, "first")
    await system.until("first", RequestState.RUNNING)
    second = _client(system, "second", max_tokens=1)
    await system.until("second", RequestState.WAITING)
    await _leave(first)
    async with asyncio.timeout(20):
        assert expected_text("second", 1).encode() in await second


async def test_a_stream_that_is_left_after_its_first_token(engine: SimulatedEngine, start_system: StartSystem) -> None:
    system = await start_system(engine)
    body = chat(stream=True, **LONG)
    async with system.session.post(system.url + CHAT_PATH, json=body) as response:
        request_id = response.headers["X-Request-ID"]
        await anext(data(response))
    # Leaving an unread answer closes its connection.
    await engine.until(aborted=1, running=0)
    assert await system.until_outcome(request_id) == "cancelled"
    await _works(system)


async def test_many_leave_at_once(start_engine: StartEngine, start_system: StartSystem) -> None:
    engine = await start_engine(slots=8, tpot_ms=TPOT_MS)
    system = await start_system(engine)
    clients = [_client(system, f"client-{i}", stream=bool(i % 2)) for i in range(40)]
    await engine.until(running=8)
    await system.until("client-39", RequestState.WAITING, RequestState.RUNNING)
    for client in clients:
        client.cancel()
    await asyncio.wait(clients)
    for i in range(40):
        assert await system.until_outcome(f"client-{i}") == "cancelled"
    await system.until_idle()
    await engine.until(running=0, waiting=0)
    await _works(system)


@BOTH_KINDS
async def test_while_it_is_being_accepted(start_engine: StartEngine, stream: bool) -> None:
    """Redis is slow, and the client leaves before it has answered: the request must not stay behind."""
    engine = await start_engine(slots=1, tpot_ms=TPOT_MS)
    async with (
        EmbeddedValkey(persist=False) as server,
        in_process_system(RedisSettings(url=server.url), [engine.url]) as system,
    ):
        commands = system.store.commands
        await commands.client_pause(60_000, all=False)  # writes wait
        # So large a command is nobody's but the accept's.
        client = _client(system, "hasty", stream=stream, padding="x" * LARGE)

        async def accept_is_blocked() -> bool:
            return any(int(one["argv-mem"]) > LARGE and "b" in one["flags"] for one in await commands.client_list())

        await wait_until(accept_is_blocked, what="the accept waits")
        await _leave(client)
        await wait_until(lambda: _open_requests(system, 0), what="the gateway has seen that its client left")
        await commands.client_unpause()
        assert await system.until_outcome("hasty") == "cancelled"
        await engine.until(running=0)


async def _open_requests(system: InProcessSystem, count: int) -> bool:
    async with system.session.get(f"{system.url}/metrics") as response:
        return f"sagellm_control_gateway_open_requests {count:.1f}" in await response.text()


@BOTH_KINDS
async def test_while_its_worker_holds_it_ready(
    engine: SimulatedEngine, start_system: StartSystem, stream: bool
) -> None:
    system = await start_system(engine, worker_prefetch=1)
    running = _client(system, "running")
    await engine.until(running=1)
    held = _client(system, "held", stream=stream)
    await system.until("held", RequestState.ASSIGNED)
    await _leave(held)
    assert await system.until_outcome("held") == "cancelled"
    await _leave(running)
    await system.until_idle()
    assert (await engine.state())["total_requests"] == 1


@BOTH_KINDS
async def test_while_its_prompt_is_read(start_engine: StartEngine, start_system: StartSystem, stream: bool) -> None:
    engine = await start_engine(slots=1, prefill_tokens_per_s=1)
    system = await start_system(engine)
    client = _client(system, "slow", stream=stream, messages=[{"role": "user", "content": "a long prompt " * 99}])
    await engine.until(running=1)
    await _leave(client)
    await engine.until(aborted=1, running=0)
    await system.until_idle()


async def test_the_engine_hears_of_it_at_once(start_echo: StartEcho, start_system: StartSystem) -> None:
    """From the client's leaving to the engine's socket closing; neither a token nor a renewal comes in between."""
    echo = await start_echo(slots=1)

    async def hang(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError("it hangs for ever")

    echo.respond(hang)
    system = await start_system(echo, worker_lease_s=30)
    took: list[float] = []
    for turn in range(20):
        client = _client(system, f"turn-{turn}", model="echo-1")
        await wait_until(lambda turn=turn: len(echo.reached) == turn + 1, what="it runs")
        began = time.monotonic()
        await _leave(client)
        await wait_until(lambda turn=turn: echo.aborted == turn + 1, what="the engine's socket is closed")
        took.append(time.monotonic() - began)
    # A twentieth of a second on an idle machine; the worker's next renewal would be ten seconds away.
    assert statistics.median(took) < PROMPT_S
