"""Redis goes away and comes back: the gateway stays up, says so, and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.store.settings import RedisSettings

from ..waiting import wait_until
from .asking import CHAT_PATH, chat, data, delta_of, error_of, expected_text
from .conftest import SimulatedEngine, StartEngine
from .in_process import GATEWAY, InProcessSystem, in_process_system


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[EmbeddedValkey, None]:
    """A server of the test's own, which keeps what it is told through a crash."""
    async with EmbeddedValkey(tmp_path / "valkey", options={"appendfsync": "always"}) as server:
        yield server


async def _status(system: InProcessSystem, path: str) -> int:
    async with system.session.get(system.url + path) as response:
        return response.status


async def _answer(system: InProcessSystem) -> tuple[int, str]:
    async with system.session.post(system.url + CHAT_PATH, json=chat("again", max_tokens=5)) as response:
        if response.status != 200:
            return response.status, (await error_of(response))["code"]
        return response.status, (await response.json())["choices"][0]["message"]["content"]


async def _restart(server: EmbeddedValkey) -> None:
    server.kill()
    await server.wait()
    await server.start()


async def test_without_redis_it_refuses_and_afterwards_it_works_again(
    server: EmbeddedValkey, start_engine: StartEngine
) -> None:
    engine = await start_engine()
    redis = RedisSettings(url=server.url, command_timeout_s=1, connect_timeout_s=1)
    async with in_process_system(redis, [engine.url]) as system:
        assert await _answer(system) == (200, expected_text("again", 5))
        server.kill()
        await server.wait()
        async with system.session.post(system.url + CHAT_PATH, json=chat()) as response:
            assert response.status == 503
            assert (await error_of(response))["code"] == "queue_unavailable"
            assert int(response.headers["Retry-After"]) >= 1
        assert await _status(system, "/health") == 200
        await wait_until(lambda: _is(system, "/ready", 503), what="/ready says 503")
        await server.start()
        await wait_until(lambda: _is(system, "/ready", 200), what="/ready says 200 again")

        async def answers() -> bool:
            return await _answer(system) == (200, expected_text("again", 5))

        await wait_until(answers, what="requests are answered again")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_outlasts_a_restart(server: EmbeddedValkey, start_engine: StartEngine, stream: bool) -> None:
    engine = await start_engine(tpot_ms=40)
    redis = RedisSettings(url=server.url, command_timeout_s=1, connect_timeout_s=1)
    async with in_process_system(redis, [engine.url]) as system:
        body = chat("through it", max_tokens=40, stream=stream)
        asking = asyncio.create_task(_whole_text(system, body))
        await engine.until(running=1)
        await wait_until(lambda: _has_tokens(engine, 3), what="tokens are on their way")
        await _restart(server)
        assert await asking == (200, expected_text("through it", 40))


async def test_an_answer_outlasts_an_outage_that_is_longer_than_the_keep_alive(
    server: EmbeddedValkey, start_engine: StartEngine
) -> None:
    engine = await start_engine(tpot_ms=40)
    redis = RedisSettings(url=server.url, command_timeout_s=1, connect_timeout_s=1)
    gateway = GATEWAY.model_copy(update={"keepalive_s": 0.1})
    async with in_process_system(redis, [engine.url], gateway=gateway) as system:
        body = chat("through it", max_tokens=40, stream=True)
        asking = asyncio.create_task(_whole_text(system, body))
        await wait_until(lambda: _has_tokens(engine, 3), what="tokens are on their way")
        server.kill()
        await server.wait()
        await engine.until(finished=1)  # the whole answer was made meanwhile
        await server.start()
        assert await asking == (200, expected_text("through it", 40))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_timeout_that_passes_during_an_outage_is_told(
    server: EmbeddedValkey, start_engine: StartEngine, stream: bool
) -> None:
    engine = await start_engine(tpot_ms=40)
    redis = RedisSettings(url=server.url, command_timeout_s=1, connect_timeout_s=1)
    async with in_process_system(redis, [engine.url]) as system:
        body = chat("too slow", max_tokens=1000, stream=stream)
        headers = {"X-Request-Timeout-Ms": "2000"}

        async def ask() -> str:
            async with system.session.post(system.url + CHAT_PATH, json=body, headers=headers) as response:
                if not stream:
                    assert response.status == 504
                    return (await error_of(response))["code"]
                *_, last = [event async for event in data(response)]
                return last["error"]["code"]

        asking = asyncio.create_task(ask())
        await wait_until(lambda: _has_tokens(engine, 3), what="tokens are on their way")
        server.kill()
        await server.wait()
        assert await asking == "deadline_exceeded"
        await server.start()


async def _whole_text(system: InProcessSystem, body: dict[str, Any]) -> tuple[int, str]:
    async with asyncio.timeout(10), system.session.post(system.url + CHAT_PATH, json=body) as response:
        if body["stream"]:
            events = [event async for event in data(response)]
            assert events[-1] == "[DONE]", events[-1]
            return response.status, "".join(map(delta_of, events))
        answer = await response.json()
        return response.status, answer["choices"][0]["message"]["content"] if response.status == 200 else str(answer)


async def _has_tokens(engine: SimulatedEngine, count: int) -> bool:
    return (await engine.state())["generated_tokens"] >= count


async def _is(system: InProcessSystem, path: str, status: int) -> bool:
    return await _status(system, path) == status
