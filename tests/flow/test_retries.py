"""An engine that fails is not the client's trouble, as long as another one can answer."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from sagellm_control.wire.states import EngineState, RequestState
from sagellm_workers.adapters.openai_http import OpenAIHttpAdapter
from sagellm_workers.serving.rows_of_engine import engine_id

from ..waiting import wait_until
from .asking import CHAT_PATH, chat, data, delta_of, error_of, expected_text
from .conftest import GOOD, SimulatedEngine, StartEcho, StartEngine, StartSystem
from .echo_engine import EchoEngine
from .in_process import IN_TURN, InProcessSystem

ASKED = {"model": "echo-1", "messages": [{"role": "user", "content": "hi"}]}
GOOD_STREAM = [b'data: {"good":true}\n\n', b"data: [DONE]\n\n"]
"""So that the engine that fails is sure to be asked."""


async def _ask(system: InProcessSystem, **fields: object) -> tuple[int, bytes]:
    async with system.session.post(system.url + CHAT_PATH, json=ASKED | fields) as response:
        return response.status, await response.read()


@pytest.mark.parametrize("status", [500, 502, 503, 529, 401, 403, 408, 429])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_of_one_engine_goes_unnoticed(
    bad: EchoEngine, good: EchoEngine, start_system: StartSystem, status: int, stream: bool
) -> None:
    bad.answer(b'{"error":{"message":"not me"}}', status=status)
    system = await start_system(bad, good, **IN_TURN)
    for _ in range(4):
        assert await _ask(system, stream=stream) == (200, GOOD)
    assert bad.reached, "the test has not tested anything"
    assert len(good.reached) == 4
    await system.until_idle()


@pytest.mark.parametrize("pings", [[], [b":\n\n"]])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_cut_before_its_first_byte_goes_unnoticed(
    bad: EchoEngine, good: EchoEngine, start_system: StartSystem, stream: bool, pings: list[bytes]
) -> None:
    bad.stream(pings, cut=True)
    good.stream(GOOD_STREAM)
    system = await start_system(bad, good, **IN_TURN)
    for _ in range(4):
        # What cannot be gone on with may be begun anew: nobody has anything of it.
        answer = await _ask(system, stream=stream, response_format={"type": "json_object"})
        assert answer == (200, b"".join(GOOD_STREAM))
    assert bad.reached
    await system.until_idle()


async def test_garbage_on_the_wire_goes_unnoticed(bad: EchoEngine, good: EchoEngine, start_system: StartSystem) -> None:
    async def garbage(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.write(b"\x00\x01 this is no HTTP\r\n\r\n")
        request.transport.close()
        return web.Response()

    bad.respond(garbage)
    system = await start_system(bad, good, **IN_TURN)
    for _ in range(4):
        assert await _ask(system) == (200, GOOD)
    assert bad.reached
    await system.until_idle()


async def test_an_engine_that_is_gone_goes_unnoticed(
    bad: EchoEngine, good: EchoEngine, start_system: StartSystem
) -> None:
    system = await start_system(bad, good, worker_health_interval_s=300, **IN_TURN)
    await bad.vanish()
    for _ in range(4):
        assert await _ask(system) == (200, GOOD)

    async def found_out() -> bool:
        states = {view.url: view.state for view in await system.engine_views()}
        return states == {bad.url: EngineState.ERROR, good.url: EngineState.READY}

    # Nobody had to wait for the next regular probe.
    await wait_until(found_out, what="the engine is known to be gone")


@pytest.mark.parametrize("status", [500, 401])
@pytest.mark.parametrize("stream", [False, True])
async def test_if_every_engine_fails_the_client_gets_the_engines_error(
    start_echo: StartEcho, start_system: StartSystem, stream: bool, status: int
) -> None:
    engines = [await start_echo(), await start_echo()]
    for engine in engines:
        engine.answer(b'{"error":{"message":"out of memory", "vendor":1}}', status=status, headers={"Retry-After": "9"})
    system = await start_system(*engines, worker_max_attempts=3)
    async with system.session.post(system.url + CHAT_PATH, json=ASKED | {"stream": stream}) as response:
        assert response.status == status
        assert response.headers["Retry-After"] == "9"
        assert await response.read() == b'{"error":{"message":"out of memory", "vendor":1}}'
        request_id = response.headers["X-Request-ID"]
    assert sum(len(engine.reached) for engine in engines) == 3
    assert all(engine.reached for engine in engines), "an engine that failed was asked again before the other"
    assert await system.until_outcome(request_id) == "failed"
    await system.until_idle()


async def test_if_no_engine_can_be_reached_the_client_gets_our_error(
    bad: EchoEngine, start_system: StartSystem
) -> None:
    system = await start_system(bad, worker_health_interval_s=300, worker_max_attempts=1)
    await bad.vanish()
    async with system.session.post(system.url + CHAT_PATH, json=ASKED) as response:
        assert response.status == 502
        error = await error_of(response)
        request_id = response.headers["X-Request-ID"]
    assert error["code"] == "engine_unreachable"
    assert error["message"] == f"engine {engine_id(bad.url)} cannot be reached"
    view = await system.until(request_id, RequestState.FINISHED)
    assert f"engine {bad.url} cannot be reached: " in view.fields["errors"], "an operator is told all"


@pytest.mark.parametrize(
    ("failure", "told"),
    [("cut", "broke off"), ("redirect", "redirects to another address"), ("hang", "is silent: no answer within 0.5 s")],
)
async def test_where_the_engine_is_is_none_of_a_clients_business(
    bad: EchoEngine, start_system: StartSystem, failure: str, told: str
) -> None:
    async def failing(request: web.Request) -> web.StreamResponse:
        if failure == "hang":
            await asyncio.sleep(3600)
        if failure == "redirect":
            raise web.HTTPPermanentRedirect("http://127.0.0.1:1/")
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.close()
        return response

    bad.respond(failing)
    system = await start_system(bad, worker_max_attempts=1, worker_first_byte_timeout_s=0.5)
    async with system.session.post(system.url + CHAT_PATH, json=ASKED) as response:
        message = (await error_of(response))["message"]
        request_id = response.headers["X-Request-ID"]
    assert message.startswith(f"engine {engine_id(bad.url)} {told}")
    assert "127.0.0.1" not in message
    async with system.session.get(f"{system.url}/v1/requests/{request_id}") as response:
        assert (await response.json())["message"] == message
    assert f"engine {bad.url} " in (await system.until(request_id, RequestState.FINISHED)).fields["errors"]


async def test_an_engine_that_is_started_again_has_lost_nothing(
    bad: EchoEngine, start_system: StartSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = OpenAIHttpAdapter.healthy

    async def slow_probe(adapter: OpenAIHttpAdapter) -> bool:
        await asyncio.sleep(0.2)  # long enough to use up all attempts before the answer
        return await probe(adapter)

    monkeypatch.setattr(OpenAIHttpAdapter, "healthy", slow_probe)

    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    bad.respond(hang)
    system = await start_system(bad, worker_slow_start_s=0)
    clients = [asyncio.create_task(_ask(system)) for _ in range(8)]
    await wait_until(lambda: len(bad.reached) == bad.slots, what="some run, the others wait")
    await bad.vanish()

    async def found_out() -> bool:
        return [view.state for view in await system.engine_views()] == [EngineState.ERROR]

    await wait_until(found_out, what="the engine is known to be gone")
    bad.answer(GOOD)
    await bad.come_back()
    assert await asyncio.gather(*clients) == [(200, GOOD)] * 8
    await system.until_idle()


async def test_a_stream_that_is_not_to_be_continued_keeps_its_prefix_and_says_so(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    # Slow enough that the client has tokens before the cut: what nobody has seen may be made again.
    engines = [await start_engine(cut_rate=1, cut_after_tokens=5, tpot_ms=20) for _ in range(2)]
    system = await start_system(*engines)
    body = chat("cut", max_tokens=20, stream=True)
    headers = {"X-Mid-Stream-Retry": "never"}
    async with system.session.post(system.url + CHAT_PATH, json=body, headers=headers) as response:
        assert response.status == 200
        request_id = response.headers["X-Request-ID"]
        *events, last = [event async for event in data(response)]
    assert "".join(map(delta_of, events)) == expected_text("cut", 5)
    assert set(last) == {"error"}
    assert last["error"]["code"] == "engine_broken"
    assert await system.until_outcome(request_id) == "failed"
    assert sum([(await engine.state())["total_requests"] for engine in engines]) == 1
    await system.until_idle()


async def test_a_whole_answer_that_is_cut_is_made_again(start_engine: StartEngine, start_system: StartSystem) -> None:
    """Its client has seen nothing of it."""
    broken, sound = await start_engine(cut_rate=1), await start_engine()
    system = await start_system(broken, sound, **IN_TURN)
    for number in range(4):
        body = chat(f"whole {number}", max_tokens=8)
        async with system.session.post(system.url + CHAT_PATH, json=body) as response:
            answer = await response.json()
        assert answer["choices"][0]["message"]["content"] == expected_text(f"whole {number}", 8)
    assert (await broken.state())["faulted"] >= 1


async def test_an_engine_that_fails_now_and_then(start_engine: StartEngine, start_system: StartSystem) -> None:
    engines: list[SimulatedEngine] = [await start_engine(fail_rate=0.3, fault_seed=seed) for seed in range(3)]
    system = await start_system(*engines, worker_max_attempts=10)

    async def ask(number: int) -> None:
        body = chat(f"client {number}", max_tokens=6)
        async with system.session.post(system.url + CHAT_PATH, json=body) as response:
            assert response.status == 200, await response.text()
            answer = await response.json()
        assert answer["choices"][0]["message"]["content"] == expected_text(f"client {number}", 6)

    async with asyncio.timeout(20):
        await asyncio.gather(*(ask(number) for number in range(60)))
    assert sum([(await engine.state())["faulted"] for engine in engines]) > 0
    await system.until_idle()
