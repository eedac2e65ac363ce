"""Engines that answer garbage with a good status, or close the connection in mid-answer: that is no answer."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from aiohttp import web

from sagellm_control.wire.states import EngineState

from .asking import CHAT_PATH, MODEL, chat, error_of
from .conftest import GOOD, StartEcho, StartEngine, StartSystem
from .echo_engine import EchoEngine, write_until_closed
from .in_process import IN_TURN, InProcessSystem
from .test_circuit import another_engine
from .test_engine_trouble import ASKED, TOKEN, ask, until_view

DONE = b"data: [DONE]\n\n"
DIED = b'data: {"error":{"message":"EngineCore encountered an issue.","type":"InternalServerError","code":500}}\n\n'
BODIES = [b"<html>this is not JSON", b"", b"[1]", b'{"choices": [{"mess', b'{"error": {"message": "out of memory"}}']
STREAMS: list[list[bytes]] = [
    [b'data: {"id": "broken", "choi\n\n', DONE],
    [b"<html>\n\n"],
    [b": ping\n\n", b"data: busy\n\n"],
    [b"Internal Server Error"],
    [],
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_body_that_is_no_answer_goes_unnoticed(
    bad: EchoEngine, good: EchoEngine, start_system: StartSystem, body: bytes, stream: bool
) -> None:
    bad.answer(body)
    system = await start_system(bad, good, **IN_TURN)
    for _ in range(4):
        assert await ask(system, stream=stream) == (200, GOOD)
    assert bad.reached, "the test has not tested anything"
    await system.until_idle()


@pytest.mark.parametrize("pieces", STREAMS)
async def test_a_stream_that_begins_with_garbage_goes_unnoticed(
    bad: EchoEngine, good: EchoEngine, start_system: StartSystem, pieces: list[bytes]
) -> None:
    bad.stream(pieces)
    good.stream([TOKEN, DONE])
    system = await start_system(bad, good, **IN_TURN)
    for _ in range(4):
        # A client of a stream may have seen a comment, and goes on with the next engine.
        async with system.session.post(system.url + CHAT_PATH, json=ASKED | {"stream": True}) as response:
            answer = await response.read()
        assert response.status == 200
        assert b"".join(e + b"\n\n" for e in answer.split(b"\n\n") if e.startswith(b"data")) == TOKEN + DONE
        assert b"busy" not in answer
    assert bad.reached
    await system.until_idle()


@pytest.mark.parametrize("stream", [False, True])
async def test_if_all_answer_garbage_the_client_gets_an_error(
    start_engine: StartEngine, start_system: StartSystem, stream: bool
) -> None:
    engines = [await start_engine(garbage_rate=1) for _ in range(2)]
    system = await start_system(*engines, worker_max_attempts=2)
    async with system.session.post(system.url + CHAT_PATH, json=chat(stream=stream)) as response:
        assert response.status == 502
        assert (await error_of(response))["code"] == "engine_broken"
        request_id = response.headers["X-Request-ID"]
    assert [(await engine.state())["faulted"] for engine in engines] == [1, 1]
    assert await system.until_outcome(request_id) == "failed"
    await system.until_idle()


@pytest.mark.parametrize("behind", [b"", DONE])
async def test_an_engine_that_says_in_its_stream_that_it_has_failed_goes_unnoticed(
    bad: EchoEngine, good: EchoEngine, start_system: StartSystem, behind: bytes
) -> None:
    bad.stream([DIED + behind])
    good.stream([TOKEN, DONE])
    system = await start_system(bad, good, **IN_TURN)
    for _ in range(4):
        assert await ask(system, stream=True) == (200, TOKEN + DONE)
    assert bad.reached, "the test has not tested anything"
    await system.until_idle()


async def test_if_all_say_so_the_client_gets_their_words(bad: EchoEngine, start_system: StartSystem) -> None:
    bad.stream([DIED, DONE])
    system = await start_system(bad, worker_max_attempts=2, worker_breaker_min_requests=2, worker_breaker_open_s=60)
    await another_engine(system)
    assert await ask(system, stream=True) == (502, DIED.removeprefix(b"data: ").strip())
    assert len(bad.reached) == 2
    view = await until_view(system, bad, lambda v: v.state is EngineState.ERROR)
    assert view.reason == "circuit open: it failed 2 of 2 requests within 60 s"


async def test_in_mid_answer_as_well(bad: EchoEngine, start_system: StartSystem) -> None:
    is_out = asyncio.Event()
    bad.stream([TOKEN, DIED + DONE], gate=is_out)
    system = await start_system(bad, worker_max_attempts=1)
    async with system.session.post(system.url + CHAT_PATH, json=ASKED | {"stream": True}) as response:
        assert await response.content.readexactly(len(TOKEN)) == TOKEN
        is_out.set()
        assert await response.read() == DIED


async def test_a_refusal_in_a_stream_is_an_answer(bad: EchoEngine, start_system: StartSystem) -> None:
    refusal = DIED.replace(b"500", b"400")
    bad.stream([refusal, DONE])
    assert await ask(await start_system(bad), stream=True) == (200, refusal + DONE)
    assert len(bad.reached) == 1


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_the_other_kinds(start_engine: StartEngine, start_system: StartSystem, path: str) -> None:
    system = await start_system(await start_engine(garbage_rate=1), worker_max_attempts=1)
    body = {"model": MODEL, "prompt": "a", "input": "a"}
    async with system.session.post(system.url + path, json=body) as response:
        assert response.status == 502
        assert (await error_of(response))["code"] == "engine_broken"


async def test_garbage_opens_the_circuit(bad: EchoEngine, start_system: StartSystem) -> None:
    bad.answer(b"<html>")
    system = await start_system(bad, worker_breaker_min_requests=3, worker_breaker_open_s=60, worker_max_attempts=1)
    await another_engine(system)
    for stream in (False, True, False):
        assert (await ask(system, stream=stream))[0] == 502
    view = await until_view(system, bad, lambda v: v.state is EngineState.ERROR)
    assert view.reason == "circuit open: it failed 3 of 3 requests within 60 s"


@pytest.mark.parametrize("garbage", [b'data: {"tok\n\n', b"<html>\n\n", b"data: busy\n\n"])
async def test_garbage_later_on_is_not_sent_and_ends_it(
    bad: EchoEngine, start_system: StartSystem, garbage: bytes
) -> None:
    async def answering(request: web.Request) -> web.StreamResponse:
        return await write_until_closed(request, [TOKEN, TOKEN, garbage, DONE])

    bad.respond(answering)
    status, body = await ask(await start_system(bad), stream=True)
    *events, last = body.removesuffix(b"\n\n").split(b"\n\n")
    assert (status, events) == (200, [TOKEN.strip()] * 2)
    assert orjson.loads(last.removeprefix(b"data: "))["error"]["code"] == "engine_broken"


@pytest.mark.parametrize("cut", [[TOKEN, TOKEN], [TOKEN, TOKEN, b'data: {"id":"x","cho']])
async def test_a_connection_that_ends_is_no_end_of_a_stream(
    bad: EchoEngine, start_system: StartSystem, cut: list[bytes]
) -> None:
    bad.respond(lambda request: write_until_closed(request, cut))
    status, body = await ask(await start_system(bad), stream=True)
    *events, last = body.removesuffix(b"\n\n").split(b"\n\n")
    assert (status, events) == (200, [TOKEN.strip()] * 2)
    assert orjson.loads(last.removeprefix(b"data: "))["error"]["code"] == "engine_broken"


async def test_nor_of_a_body(bad: EchoEngine, good: EchoEngine, start_system: StartSystem) -> None:
    bad.respond(lambda request: write_until_closed(request, [b'{"choices": [', b'{"mess'], "application/json"))
    system = await start_system(bad, good, **IN_TURN)
    for _ in range(2):
        assert await ask(system) == (200, GOOD)
    assert bad.reached


async def test_one_that_says_its_end_may_close_the_connection(bad: EchoEngine, start_system: StartSystem) -> None:
    whole = [TOKEN, TOKEN, b'data: {"choices":[{"finish_reason":"stop"}]}\n\n']
    bad.respond(lambda request: write_until_closed(request, whole))
    assert await ask(await start_system(bad), stream=True) == (200, b"".join(whole))


async def test_a_well_framed_stream_need_not_say_its_end(bad: EchoEngine, start_system: StartSystem) -> None:
    bad.stream([TOKEN, TOKEN])
    assert await ask(await start_system(bad), stream=True) == (200, TOKEN * 2)


async def test_vectors_that_are_no_json(start_echo: StartEcho, start_system: StartSystem) -> None:
    engine = await start_echo()
    engine.answer(b"\x00\xff", content_type="application/octet-stream")
    system: InProcessSystem = await start_system(engine)
    body = {"model": "echo-1", "input": "x", "encoding_format": "bytes"}
    async with system.session.post(f"{system.url}/v1/embeddings", json=body) as response:
        assert (response.status, await response.read()) == (200, b"\x00\xff")
