"""A Redis that takes what it is sent and says nothing for a while."""

from __future__ import annotations

import asyncio

from sagellm_control.store.settings import RedisSettings

from ..flow.asking import CHAT_PATH, chat
from ..flow.conftest import ENDLESS, StartEngine
from ..flow.in_process import GATEWAY, in_process_system
from .tcp_proxy import TcpProxy


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
