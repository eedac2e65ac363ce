"""A Redis that takes what it is sent and says nothing for a while."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.store.settings import RedisSettings

from ..flow.asking import CHAT_PATH, chat, error_of
from ..flow.conftest import ENDLESS, StartEngine
from ..flow.in_process import GATEWAY, in_process_system
from ..waiting import wait_until
from .tcp_proxy import TcpProxy
from .test_redis_away import is_ready


async def test_comments_keep_a_stream_while_redis_hangs(
    start_engine: StartEngine, proxied: RedisSettings, proxy: TcpProxy
) -> None:
    """Proxies cut streams that are silent for too long."""
    engine = await start_engine(**ENDLESS)
    patient = proxied.model_copy(update={"command_timeout_s": 10.0})
    gateway = GATEWAY.model_copy(update={"keepalive_s": 0.2})
    async with in_process_system(patient, [engine.url], gateway=gateway) as system:
        body = chat("hello", max_tokens=4, stream=True)
        async with system.session.post(system.url + CHAT_PATH, json=body) as response:
            await response.content.readline()
            proxy.lose()
            async with asyncio.timeout(25):
                for _ in range(5):
                    while not (await response.content.readline()).startswith(b":"):
                        pass
            proxy.find()


async def test_a_scrape_needs_no_redis(start_engine: StartEngine, server: EmbeddedValkey) -> None:
    """What operators look at when Redis is down must not depend on it."""
    engine = await start_engine()
    redis = RedisSettings(url=server.url, command_timeout_s=60)
    async with in_process_system(redis, [engine.url]) as system:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(30), system.session.get(f"{system.url}/metrics") as response:
                assert "sagellm_control_gateway_open_requests" in await response.text()
        finally:
            os.kill(server.pid, signal.SIGCONT)


async def test_who_comes_while_redis_is_silent_waits_for_one_answer_only(
    start_engine: StartEngine, server: EmbeddedValkey
) -> None:
    """Not for a second try of his own request, nor for that of one before him."""
    engine = await start_engine()
    redis = RedisSettings(url=server.url, command_timeout_s=3, connect_timeout_s=3)
    async with in_process_system(redis, [engine.url]) as system:

        async def refused_after_s() -> float:
            began = time.monotonic()
            async with system.session.post(system.url + CHAT_PATH, json=chat()) as response:
                assert response.status == 503
                assert (await error_of(response))["code"] == "queue_unavailable"
            return time.monotonic() - began

        os.kill(server.pid, signal.SIGSTOP)
        try:
            asking = [asyncio.create_task(refused_after_s())]
            await asyncio.sleep(1)  # the batch of the first is under way: these wait for it
            asking += [asyncio.create_task(refused_after_s()) for _ in range(3)]
            assert max(await asyncio.gather(*asking)) < 2 * redis.command_timeout_s
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await wait_until(lambda: is_ready(system, True), what="/ready says 200 again")
