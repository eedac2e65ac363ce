"""A gateway that stops waits for open answers for so long and not longer, and tells those who still wait."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from sagellm_control.gateway import metrics
from sagellm_control.gateway.process import serve
from sagellm_control.wire.states import RequestState

from ..waiting import wait_until
from .asking import CHAT_PATH, MODEL, chat, chat_bytes, data, error_of
from .conftest import SimulatedEngine, StartEngine, StartSystem
from .echo_engine import EchoEngine
from .in_process import GATEWAY, InProcessSystem
from .numbered_events import numbered

UNREAD_BYTES = 16_000_000


async def test_who_still_waits_when_the_time_is_over_is_told(
    busy_engine: SimulatedEngine,
    start_system: StartSystem,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream that has begun gets an error event, who has nothing yet a 503; the engine's call goes on."""
    # However slow this machine is.
    monkeypatch.setattr("sagellm_control.gateway.process.TELL_S", 30.0)
    monkeypatch.setattr("sagellm_control.client.abandoned.FAREWELL_S", 30.0)
    system = await start_system(busy_engine, gateways=0)
    async with serve(GATEWAY.model_copy(update={"shutdown_s": 0.2}), system.redis) as url:
        begun = await _begin(system, url, "begun")
        whole = asyncio.create_task(_refused(system, url, "whole", chat("whole")))
        stream = asyncio.create_task(_refused(system, url, "stream", chat("stream", stream=True)))
        await system.until("whole", RequestState.WAITING)
        await system.until("stream", RequestState.WAITING)
    *_, last = [event async for event in data(begun)]
    assert (last["error"]["code"], last["error"]["type"]) == ("gateway_stopping", "service_unavailable_error")
    assert "/v1/requests/begun" in last["error"]["message"]
    for name, told in (("whole", whole), ("stream", stream)):
        error = await told
        assert error["code"] == "gateway_stopping"
        assert f"/v1/requests/{name}" in error["message"]
    assert "not answered within 0.2 s, and whose clients are told so: 3" in caplog.text
    assert (await busy_engine.state())["aborted"] == 0
    # Nobody listens any more: from now on their time runs (orphan_grace_s), and not only when the lease is over.
    keys = system.store.keys.pool(MODEL)
    assert await system.store.commands.zcard(keys.orphans) == 3
    assert [await system.store.commands.hget(keys.record(name), "inbox") for name in ("begun", "whole")] == [b"", b""]


async def test_who_was_told_finds_the_answer_at_another_gateway(
    good: EchoEngine, start_system: StartSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on behind the last event that it has; the engine is asked once."""
    monkeypatch.setattr("sagellm_control.gateway.process.TELL_S", 30.0)
    gate = asyncio.Event()
    good.stream([b'data: {"n":1}\n\n', b'data: {"n":2}\n\ndata: [DONE]\n\n'], gate=gate)
    system = await start_system(good, gateways=0)
    async with serve(GATEWAY.model_copy(update={"shutdown_s": 0.1}), system.redis) as url:
        begun = await _begin(system, url, "begun", model="echo-1", headers={"X-Event-IDs": "true"})
    text = await begun.text()
    first, *_, last = text.strip().split("\n\n")
    assert first == 'id: 1-1\ndata: {"n":1}'
    assert last.startswith("data: "), "nobody could come back behind what is no event of the answer"
    assert "gateway_stopping" in last
    async with serve(GATEWAY, system.redis) as url:
        gate.set()
        events = f"{url}/v1/requests/begun/events"
        async with system.session.get(events, headers={"Last-Event-ID": "1-1"}) as response:
            assert [event async for _, event in numbered(response)] == [{"n": 2}, "[DONE]"]
        assert await system.until_outcome("begun") == "completed"
    assert (len(good.reached), good.aborted) == (1, 0)


async def test_a_body_that_is_still_being_sent_when_the_time_is_over(
    start_engine: StartEngine, start_system: StartSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sagellm_control.gateway.process.TELL_S", 30.0)
    system = await start_system(await start_engine(), gateways=0)
    async with serve(GATEWAY.model_copy(update={"shutdown_s": 0.2}), system.redis) as url:
        reader, writer = await _connect(url)
        before = metrics.open_requests.number
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        await wait_until(lambda: metrics.open_requests.number > before, what="the gateway reads the body")
    assert b"503" in await reader.readline()
    assert b"gateway_stopping" in await reader.read()
    writer.close()


async def test_a_client_that_does_not_read_does_not_hold_it_up(
    good: EchoEngine, start_system: StartSystem, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot be told anything, and the time is not waited for twice."""
    shutdown_s = 6.0
    system = await start_system(good, gateways=0)
    async with serve(GATEWAY.model_copy(update={"shutdown_s": shutdown_s}), system.redis) as url:
        reader, writer = await _begin_unread(url, good)
        began = time.monotonic()
    assert time.monotonic() - began < 2 * shutdown_s
    assert "still open 1 s later, and are cut: 1" in caplog.text
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(UNREAD_BYTES)
    writer.close()
    assert (await system.until("unread", RequestState.RUNNING)).attempt == 1


async def test_a_client_that_reads_slowly_is_told(
    good: EchoEngine, start_system: StartSystem, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway waits to be rid of what it has written when its time is over."""
    monkeypatch.setattr("sagellm_control.gateway.process.TELL_S", 30.0)
    system = await start_system(good, gateways=0)

    async def read_late() -> bytes:
        await wait_until(lambda: "whose clients are told so: 1" in caplog.text)
        return await reader.read()

    async with serve(GATEWAY.model_copy(update={"shutdown_s": 0.5}), system.redis) as url:
        reader, writer = await _begin_unread(url, good)
        reading = asyncio.create_task(read_late())
    assert b"gateway_stopping" in (await reading)[-1000:]
    writer.close()


async def _begin(
    system: InProcessSystem, url: str, name: str, *, model: str = MODEL, headers: dict[str, str] | None = None
) -> aiohttp.ClientResponse:
    """A stream that has begun: its headers come with the first event."""
    body = chat(name, stream=True, model=model)
    headers = {"X-Request-ID": name} | (headers or {})
    response = await system.session.post(url + CHAT_PATH, json=body, headers=headers)
    assert response.status == 200
    return response


async def _begin_unread(url: str, engine: EchoEngine) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream of far more than a connection holds, which has begun and does not end, and of which one line is read."""
    piece = b'data: {"x":"' + b"x" * (UNREAD_BYTES // 8) + b'"}\n\n'
    engine.stream([piece] * 8 + [b"data: [DONE]\n\n"], gate=asyncio.Event())
    reader, writer = await _connect(url)
    body = chat_bytes("hello", stream=True, model="echo-1")
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: x\r\nX-Request-ID: unread\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    assert b"200" in await reader.readline()
    return reader, writer


async def _refused(system: InProcessSystem, url: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """The error of a refusal that says when to come back."""
    async with system.session.post(url + CHAT_PATH, json=body, headers={"X-Request-ID": name}) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        assert response.headers["X-Request-ID"] == name
        assert response.headers["X-RateLimit-Limit-Requests"]
        return await error_of(response)


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that takes no more than is read from it, and a little."""
    parts = urlsplit(url)
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, (parts.hostname, parts.port))
    return await asyncio.open_connection(sock=plain, limit=4096)
