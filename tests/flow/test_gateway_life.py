"""A gateway's own life: it starts or says why not, and it stops without taking answers with it."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from sagellm_control.embedded import free_port
from sagellm_control.gateway.process import serve
from sagellm_control.store.connect import StoreUnreachable
from sagellm_control.store.settings import RedisSettings
from sagellm_control.wire.states import RequestState

from ..waiting import wait_until
from .asking import CHAT_PATH, chat, data, delta_of, expected_text
from .conftest import StartEngine, StartSystem
from .in_process import GATEWAY, InProcessSystem


async def test_a_port_that_is_taken(redis_settings: RedisSettings) -> None:
    async with serve(GATEWAY, redis_settings) as url:
        taken = GATEWAY.model_copy(update={"port": urlsplit(url).port})
        with pytest.raises(OSError, match=f"{taken.port}"):
            async with serve(taken, redis_settings):
                pytest.fail("it started")


async def test_a_redis_that_is_not_there() -> None:
    port = free_port()
    with pytest.raises(StoreUnreachable, match=f"{port}.*--redis-url"):
        async with serve(GATEWAY, RedisSettings(url=f"redis://127.0.0.1:{port}/0")):
            pytest.fail("it started")


async def test_it_binds_to_loopback_unless_told_otherwise(redis_settings: RedisSettings) -> None:
    async with serve(GATEWAY, redis_settings) as url:
        assert urlsplit(url).hostname == "127.0.0.1"


async def test_two_gateways_may_live_in_one_process(redis_settings: RedisSettings) -> None:
    async with serve(GATEWAY, redis_settings) as first, serve(GATEWAY, redis_settings) as second:
        assert first != second


async def test_open_answers_finish_when_it_stops(start_engine: StartEngine, start_system: StartSystem) -> None:
    system = await start_system(await start_engine(tpot_ms=20), gateways=0)
    async with serve(GATEWAY.model_copy(update={"shutdown_s": 10.0}), system.redis) as url:
        streamed = asyncio.create_task(_stream(system, url, "streamed", tokens=20))
        whole = asyncio.create_task(_whole(system, url, "whole", tokens=20))
        await system.until("streamed", RequestState.RUNNING)
        await system.until("whole", RequestState.RUNNING)
    assert await streamed == expected_text("streamed", 20)
    assert await whole == expected_text("whole", 20)


async def test_who_is_connected_may_still_ask_when_it_stops(
    start_engine: StartEngine, start_system: StartSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was made before, on which the request comes just after nobody new gets in."""
    monkeypatch.setattr("sagellm_control.gateway.process.LINGER_S", 1.0)
    system = await start_system(await start_engine(), gateways=0)
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def gateway() -> None:
        async with serve(GATEWAY.model_copy(update={"shutdown_s": 20.0}), system.redis) as url:
            started.set_result(url)
            await stop.wait()

    serving = asyncio.create_task(gateway())
    url = await started
    assert await _whole(system, url, "first", tokens=3) == expected_text("first", 3)
    stop.set()
    await wait_until(lambda: _refuses(url), what="nobody new gets in")
    assert await _whole(system, url, "second", tokens=3) == expected_text("second", 3)
    await serving


async def test_a_body_that_is_on_its_way_holds_no_stop_up(start_engine: StartEngine, start_system: StartSystem) -> None:
    """Nothing of it is received any more: its client is told so, and need not wait until nobody else is waited for."""
    system = await start_system(await start_engine(), gateways=0)
    async with asyncio.timeout(30):
        async with serve(GATEWAY.model_copy(update={"shutdown_s": 60.0}), system.redis) as url:
            parts = urlsplit(url)
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            await wait_until(lambda: _is_reading(system, url), what="the gateway reads it")
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"gateway_stopping" in answer


async def _is_reading(system: InProcessSystem, url: str) -> bool:
    async with system.session.get(url + "/metrics") as response:
        return "sagellm_control_gateway_open_requests 1.0" in await response.text()


async def _refuses(url: str) -> bool:
    parts = urlsplit(url)
    try:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    writer.close()
    return False


async def test_an_answer_that_outlasts_the_shutdown_is_not_cancelled(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    """Its client comes back with the same key, to another gateway, and the engine need not begin again."""
    engine = await start_engine(tpot_ms=20)
    system = await start_system(engine, gateways=0)
    key = {"Idempotency-Key": "kept"}
    body = chat("long", max_tokens=40)
    async with serve(GATEWAY.model_copy(update={"shutdown_s": 0.1}), system.redis) as url:
        first = asyncio.create_task(system.session.post(url + CHAT_PATH, json=body, headers=key))
        await engine.until(running=1)
    await asyncio.wait({first})
    async with (
        serve(GATEWAY, system.redis) as url,
        system.session.post(url + CHAT_PATH, json=body, headers=key) as again,
    ):
        assert again.status == 200, await again.text()
        assert (await again.json())["choices"][0]["message"]["content"] == expected_text("long", 40)
    state = await engine.state()
    assert (state["total_requests"], state["aborted"]) == (1, 0)


async def test_it_is_not_ready_while_it_stops(start_engine: StartEngine, start_system: StartSystem) -> None:
    system = await start_system(await start_engine(tpot_ms=20), gateways=0)
    stopping = asyncio.Event()

    async def gateway(started: asyncio.Future[str]) -> None:
        async with serve(GATEWAY.model_copy(update={"shutdown_s": 10.0}), system.redis) as url:
            started.set_result(url)
            await stopping.wait()

    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    life = asyncio.create_task(gateway(started))
    url = await started
    # A connection that is open already, as load balancers keep them.
    async with system.session.get(f"{url}/ready") as response:
        assert response.status == 200
    answer = asyncio.create_task(_stream(system, url, "open", tokens=30))
    await system.until("open", RequestState.RUNNING)
    stopping.set()

    async def refuses() -> bool:
        try:
            async with system.session.get(f"{url}/ready") as response:
                return response.status == 503
        except OSError:
            return True

    await wait_until(refuses)
    assert not answer.done()
    assert await answer == expected_text("open", 30)
    await life


async def _stream(system: InProcessSystem, url: str, name: str, tokens: int) -> str:
    body = chat(name, max_tokens=tokens, stream=True)
    async with system.session.post(url + CHAT_PATH, json=body, headers={"X-Request-ID": name}) as response:
        events = [event async for event in data(response)]
    assert events[-1] == "[DONE]"
    return "".join(map(delta_of, events))


async def _whole(system: InProcessSystem, url: str, name: str, tokens: int) -> str:
    body = chat(name, max_tokens=tokens)
    async with system.session.post(url + CHAT_PATH, json=body, headers={"X-Request-ID": name}) as response:
        return (await response.json())["choices"][0]["message"]["content"]
