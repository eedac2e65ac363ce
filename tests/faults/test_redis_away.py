"""Redis is away: processes stay up and say so, nothing waits without a bound, and what runs is delivered later."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from redis.exceptions import RedisError

from sagellm_control.client import QueueClient, QueueUnavailable, acceptor, presence, queue_client
from sagellm_control.client.acceptor import Acceptor
from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.attach import attach
from sagellm_control.store.steps.listen import announce_listener
from sagellm_control.store.views import list_requests
from sagellm_control.wire.states import RequestState
from sagellm_workers.attempts import insistence

from ..flow.asking import CHAT_PATH, MODEL, chat, chat_bytes, data, delta_of, error_of, expected_text
from ..flow.conftest import StartEngine
from ..flow.in_process import GATEWAY, InProcessSystem, in_process_system
from ..leaks import delete_namespace
from ..waiting import wait_until
from .tcp_proxy import TcpProxy


async def whole_text(system: InProcessSystem, body: dict[str, Any]) -> str:
    """The answer's text; asserts that it is complete."""
    async with system.session.post(system.url + CHAT_PATH, json=body) as response:
        assert response.status == 200, await response.text()
        if not body.get("stream"):
            return (await response.json())["choices"][0]["message"]["content"]
        events = [event async for event in data(response)]
        assert events[-1] == "[DONE]", events[-1]
        return "".join(map(delta_of, events))


async def holds(system: InProcessSystem, places: int) -> None:
    """Wait until the engines hold so many places; the test's own connections may have been cut too."""

    async def so_many() -> bool:
        with suppress(RedisError, OSError):
            return sum(view.active for view in await system.engine_views()) == places
        return False

    await wait_until(so_many, what=f"{places} places are held")


async def is_ready(system: InProcessSystem, ready: bool) -> bool:
    async with system.session.get(system.url + "/ready") as response:
        return (response.status == 200) is ready


@pytest.fixture
async def slow_and_proxied(start_engine: StartEngine, proxied: RedisSettings) -> AsyncGenerator[InProcessSystem, None]:
    engine = await start_engine(tpot_ms=30)
    gateway = GATEWAY.model_copy(update={"keepalive_s": 0.2})
    async with in_process_system(proxied, [engine.url], gateway=gateway) as system:
        yield system


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_an_outage(slow_and_proxied: InProcessSystem, proxy: TcpProxy, how: str) -> None:
    system = slow_and_proxied
    streamed = chat("streamed", max_tokens=40, stream=True)
    running = [asyncio.create_task(whole_text(system, streamed)) for _ in range(3)]
    running += [asyncio.create_task(whole_text(system, chat("whole", max_tokens=40)))]
    await holds(system, 4)
    if how == "refused":
        await proxy.refuse()
    else:
        proxy.lose()
    await wait_until(lambda: is_ready(system, False), what="/ready says 503")
    refused_s: list[float] = []
    for _ in range(10):
        began = time.monotonic()
        async with system.session.post(system.url + CHAT_PATH, json=chat()) as response:
            assert response.status == 503
            assert (await error_of(response))["code"] == "queue_unavailable"
            assert int(response.headers["Retry-After"]) >= 1
        refused_s.append(time.monotonic() - began)
    # At once, once it is known; the first ones may have found it out.
    assert sorted(refused_s)[5] < 0.2
    if how == "refused":
        await proxy.listen()
    else:
        proxy.find()
    texts = await asyncio.gather(*running)
    assert texts == [expected_text("streamed", 40)] * 3 + [expected_text("whole", 40)]
    await wait_until(lambda: is_ready(system, True), what="/ready says 200 again")
    assert await whole_text(system, chat("and again", max_tokens=3)) == expected_text("and again", 3)
    await holds(system, 0)


async def test_what_ended_while_redis_was_away_is_not_run_again(
    start_engine: StartEngine, proxied: RedisSettings, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The assignment is still there when the worker looks again, and its end is only on its way."""
    monkeypatch.setattr(insistence, "FIRST_RETRY_S", 1.5)  # the reader is back first
    engine = await start_engine(tpot_ms=5)
    async with in_process_system(proxied, [engine.url]) as system:
        asking = [asyncio.create_task(whole_text(system, chat(f"n {i}", max_tokens=150))) for i in range(4)]
        await engine.until(running=4)
        await proxy.refuse()
        await engine.until(finished=4)
        await proxy.listen()
        assert await asyncio.gather(*asking) == [expected_text(f"n {i}", 150) for i in range(4)]
        await holds(system, 0)
        assert (await engine.state())["total_requests"] == 4


async def test_what_waits_for_redis_is_bounded(
    slow_and_proxied: InProcessSystem, proxied: RedisSettings, proxy: TcpProxy
) -> None:
    async with QueueClient.connect(proxied) as queue:
        await queue.pools.look()
        queue._acceptor = Acceptor(  # pyright: ignore[reportPrivateUsage]
            queue.store, queue.limits, queue.pools, queue._abandoned, queue._held, most_waiting_bytes=5000
        )
        proxy.hold()
        body = chat_bytes("x" * 2000)
        waiting = [asyncio.create_task(queue.submit(MODEL, body)) for _ in range(10)]
        done, pending = await asyncio.wait(waiting, timeout=0.3)
        assert len(pending) == 2
        for task in done:
            with pytest.raises(QueueUnavailable, match="wait for Redis"):
                task.result()
        proxy.release()
        for task in pending:
            submission = await task
            await queue.cancel(submission.request_id)


async def test_a_request_whose_record_was_lost_is_submitted_again(
    slow_and_proxied: InProcessSystem, proxy: TcpProxy
) -> None:
    """As after a failover that replication had not kept up with: nothing is left of it, and its attempt still runs."""
    system = slow_and_proxied
    body = chat("lost and found", max_tokens=30)
    asking = asyncio.create_task(whole_text(system, body))
    await holds(system, 1)
    await delete_namespace(system.store)
    proxy.cut()
    assert await asking == expected_text("lost and found", 30)
    await holds(system, 0)


async def test_whoever_listens_to_a_lost_request_has_its_answer_too(
    start_engine: StartEngine, proxied: RedisSettings, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At another gateway: one sent the same request again, one asks for the result by its id."""
    attached = list[str]()
    for module in (acceptor, queue_client):
        monkeypatch.setattr(module, "attach", _noting(attached))
    engine = await start_engine(tpot_ms=30)
    async with in_process_system(proxied, [engine.url], gateways=2) as system:
        first, other = system.gateways
        key, body = {"Idempotency-Key": "one"}, chat("lost and found", max_tokens=30)

        async def ask(gateway: str) -> str:
            async with system.session.post(gateway + CHAT_PATH, json=body, headers=key) as response:
                assert response.status == 200, await response.text()
                return (await response.json())["choices"][0]["message"]["content"]

        async def result(url: str) -> str:
            async with system.session.get(url) as response:
                assert response.status == 200, await response.text()
                return (await response.json())["choices"][0]["message"]["content"]

        asking = [asyncio.create_task(ask(first))]
        await holds(system, 1)
        (request_id,) = [view.request_id for view in await list_requests(system.store)]
        asking.append(asyncio.create_task(ask(other)))
        asking.append(asyncio.create_task(result(f"{other}/v1/requests/{request_id}/result")))
        await wait_until(lambda: len(attached) == 2, what="both listen")
        await delete_namespace(system.store)
        proxy.cut()
        assert await asyncio.gather(*asking) == [expected_text("lost and found", 30)] * 3
        await holds(system, 0)


def _noting(attached: list[str]) -> Callable[..., Awaitable[RequestState | None]]:
    async def noted(store: Store, pool: str, request_id: str, inbox: str) -> RequestState | None:
        state = await attach(store, pool, request_id, inbox)
        attached.append(inbox)
        return state

    return noted


async def test_an_answer_that_has_begun_and_lost_its_record_ends_with_an_error(
    slow_and_proxied: InProcessSystem, proxy: TcpProxy
) -> None:
    system = slow_and_proxied
    body = chat("begun", max_tokens=60, stream=True)
    events: list[Any] = []
    async with system.session.post(system.url + CHAT_PATH, json=body) as response:
        async for event in data(response):
            events.append(event)
            if len(events) == 5:
                await delete_namespace(system.store)
                proxy.cut()
    assert events[-1]["error"]["code"] == "request_lost"
    text = "".join(map(delta_of, events))
    assert text
    assert expected_text("begun", 60).startswith(text)


async def test_the_server_is_stopped_and_goes_on(start_engine: StartEngine, server: EmbeddedValkey) -> None:
    """SIGSTOP: it takes connections and says nothing. Nobody loses his engine over it."""
    engine = await start_engine(tpot_ms=20)
    redis = RedisSettings(url=server.url, command_timeout_s=0.5, connect_timeout_s=0.5)
    async with in_process_system(redis, [engine.url]) as system:
        asking = asyncio.create_task(whole_text(system, chat("through it", max_tokens=40, stream=True)))
        await engine.until(running=1)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await wait_until(lambda: is_ready(system, False), what="/ready says 503")
            await engine.until(finished=1)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert await asking == expected_text("through it", 40)
        await wait_until(lambda: is_ready(system, True), what="/ready says 200 again")
        await holds(system, 0)


async def test_a_restart_with_its_file_loses_nothing(start_engine: StartEngine, server: EmbeddedValkey) -> None:
    """Queued, waiting, assigned and running: all of it goes on."""
    engine = await start_engine(tpot_ms=20, slots=2)
    redis = RedisSettings(url=server.url, command_timeout_s=0.5, connect_timeout_s=0.5)
    async with in_process_system(redis, [engine.url]) as system:
        asking = [
            asyncio.create_task(whole_text(system, chat(f"n {i}", max_tokens=15, stream=bool(i % 2))))
            for i in range(12)
        ]
        await engine.until(running=2)
        server.kill()
        await server.wait()
        await wait_until(lambda: is_ready(system, False), what="/ready says 503")
        await server.start()
        assert await asyncio.gather(*asking) == [expected_text(f"n {i}", 15) for i in range(12)]
        await holds(system, 0)


@pytest.mark.usefixtures("short_gateway_leases")
async def test_an_outage_longer_than_the_lease_of_a_gateway_and_its_grace(
    start_engine: StartEngine, server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keepers look again before gateways have said that they are alive."""

    async def announce_late(*gateway: Any) -> None:
        await asyncio.sleep(0.3)
        await announce_listener(*gateway)

    monkeypatch.setattr(presence, "announce_listener", announce_late)
    engine = await start_engine(tpot_ms=60)
    redis = RedisSettings(url=server.url, command_timeout_s=1, connect_timeout_s=1)
    gateway = GATEWAY.model_copy(update={"orphan_grace_s": 0.1})
    async with in_process_system(redis, [engine.url], gateway=gateway) as system:
        streamed = chat("to the end", max_tokens=80, stream=True)
        asking = [asyncio.create_task(whole_text(system, streamed)) for _ in range(4)]
        await engine.until(running=4)
        gateways = system.store.keys.gateways()
        await wait_until(lambda: system.store.commands.exists(gateways), what="the gateway is known")
        server.kill()
        await server.wait()
        await asyncio.sleep(1.5)
        await server.start()
        assert await asyncio.gather(*asking) == [expected_text("to the end", 80)] * 4
