"""Processes that start before Redis does: they wait for it, say so, and can be stopped meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.embedded.ports import free_port
from sagellm_control.store.settings import RedisSettings

from ..waiting import wait_until
from .chats import stream_chat
from .real_processes import RealProcesses


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[EmbeddedValkey, None]:
    """A server of the test's own that has not been started."""
    server = EmbeddedValkey(tmp_path / "valkey", port=free_port())
    yield server
    await server.stop()


async def test_they_wait_for_redis(processes: RealProcesses, server: EmbeddedValkey) -> None:
    redis = RedisSettings(url=server.url)
    early = replace(processes, redis=redis, started=processes.started)
    engine = await early.engine("--tpot-ms", "1")
    scheduler = await early.start("scheduler")
    worker = await early.start("worker", "--engine", engine)
    port = free_port()
    gateway = await early.start("gateway", "--port", str(port))
    url = f"http://127.0.0.1:{port}"
    await wait_until(lambda: early.answers(f"{url}/health"), 30, what="the gateway lives")
    async with early.session.get(f"{url}/ready") as answer:
        assert answer.status == 503
    refused = await stream_chat(early.session, url, "too early", 2)
    assert refused.status == 503
    for process in (scheduler, worker, gateway):
        await wait_until(lambda p=process: "waiting for it" in p.log.read_text(), 30, what=f"{process.name} says so")
        assert process.process.returncode is None
    stopped = await early.start("scheduler")
    await wait_until(lambda: "waiting for it" in stopped.log.read_text(), 30, what="another one waits")
    assert await stopped.terminate() == 0

    await server.start()
    await wait_until(lambda: early.answers(f"{url}/ready"), 30, what="the gateway is ready")

    async def served() -> bool:
        return (await stream_chat(early.session, url, "in time", 3)).done

    await wait_until(served, 30, what="a chat is answered")
    for process in (gateway, scheduler, worker):
        assert await process.terminate() == 0
