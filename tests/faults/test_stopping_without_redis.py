"""A worker is stopped while Redis is away: it ends all the same, and what it could not write is not lost."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_control.store.settings import RedisSettings
from sagellm_workers.serving import engine_session

from ..flow.asking import chat, expected_text
from ..flow.conftest import StartEngine
from ..flow.in_process import GATEWAY, SCHEDULER, in_process_system
from .tcp_proxy import TcpProxy
from .test_redis_away import holds, whole_text


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_a_drain_has_its_deadline_also_without_redis(
    start_engine: StartEngine,
    proxied: RedisSettings,
    proxy: TcpProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    monkeypatch.setattr(engine_session, "DRAIN_GRACE_S", 0.3)
    stays, goes = await start_engine(tpot_ms=20), await start_engine(tpot_ms=20)
    gateway = GATEWAY.model_copy(update={"fast_path": False, "keepalive_s": 0.2})
    scheduler = SCHEDULER.model_copy(update={"placement": "round_robin"})
    async with in_process_system(proxied, [stays.url], gateway=gateway, scheduler=scheduler) as system:
        async with system.worker(goes.url, drain_s=0.2, lease_s=1):
            asking: list[asyncio.Task[str]] = []
            while (await goes.state())["running"] < 2:
                body = chat("goes on", max_tokens=200, stream=True)
                asking.append(asyncio.create_task(whole_text(system, body)))
                await holds(system, len(asking))
            if how == "refused":
                await proxy.refuse()
            else:
                proxy.lose()
        # It has ended, or leaving the context would have failed.
        assert "could not be written; others go on with them" in caplog.text
        await goes.until(running=0)
        if how == "refused":
            await proxy.listen()
        else:
            proxy.find()
        assert await asyncio.gather(*asking) == [expected_text("goes on", 200)] * len(asking)
        await holds(system, 0)
