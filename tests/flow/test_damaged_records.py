"""Somebody writes a word that is no state into a request's record: its client is told, wherever the request is."""

from __future__ import annotations

import asyncio
from typing import Any

from sagellm_control.store.dead import list_dead
from sagellm_control.wire.states import RequestState

from .asking import MODEL, data, post_chat
from .conftest import StartEngine, StartSystem
from .in_process import InProcessSystem

LONG = {"max_tokens": 100_000}
"""Half an hour's answer."""


async def _damage(system: InProcessSystem, request_id: str) -> None:
    record = system.store.keys.pool(MODEL).record(request_id)
    assert await system.store.commands.hset(record, "state", "banana") == 0


async def _ask(system: InProcessSystem, request_id: str) -> tuple[int, Any]:
    async with post_chat(system, {"X-Request-ID": request_id}) as response:
        return response.status, await response.json()


async def test_its_client_is_told_and_others_go_on(start_engine: StartEngine, start_system: StartSystem) -> None:
    engine = await start_engine(slots=1, tpot_ms=20)
    system = await start_system(engine)
    async with asyncio.timeout(30), post_chat(system, {"X-Request-ID": "runs"}, stream=True, **LONG) as running:
        events = data(running)
        await anext(events)
        waiting = asyncio.create_task(_ask(system, "waits"))
        await system.until("waits", RequestState.WAITING)
        await _damage(system, "waits")
        status, body = await waiting
        assert (status, body["error"]["code"]) == (500, "unreadable_record")
        # What has begun ends with the same error, and its engine is free for others.
        await _damage(system, "runs")
        said = [event async for event in events]
        assert said[-1]["error"]["code"] == "unreadable_record"
        await engine.until(aborted=1, running=0)
        await system.until_idle()
    async with asyncio.timeout(30), post_chat(system, {"X-Request-ID": "next"}, max_tokens=1) as response:
        assert response.status == 200
    assert {letter.request_id for letter in await list_dead(system.store, MODEL)} == {"runs", "waits"}
