"""A client that leaves frees what it held: its slot, or its place in the queue."""

from __future__ import annotations

import asyncio

import pytest

from .conftest import ENDLESS, StartEngine, chat

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_frees_the_slot(start_engine: StartEngine, stream: bool) -> None:
    engine = await start_engine(slots=1, **ENDLESS)
    task = asyncio.create_task(engine.post(CHAT, chat(stream=stream)))
    await engine.until(running=1)
    task.cancel()
    await engine.until(running=0, aborted=1, finished=0)


async def test_leaving_in_mid_stream(start_engine: StartEngine) -> None:
    engine = await start_engine(slots=2, **ENDLESS)
    body = chat(stream=True, n=2)
    async with engine.session.post(engine.url + CHAT, json=body) as response:
        assert b"assistant" in await response.content.readline()
        await engine.until(running=2)
        response.close()
    state = await engine.until(running=0, aborted=1)
    assert state["finished"] == 0


async def test_leaving_the_queue(start_engine: StartEngine) -> None:
    engine = await start_engine(slots=1, **ENDLESS)
    first = asyncio.create_task(engine.post(CHAT, chat()))
    await engine.until(running=1)
    others = [asyncio.create_task(engine.post(CHAT, chat())) for _ in range(3)]
    await engine.until(waiting=3)
    others[1].cancel()
    await engine.until(waiting=2, running=1, aborted=1)
    for task in (first, *others):
        task.cancel()


async def test_the_next_request_runs_when_an_answer_was_aborted(start_engine: StartEngine) -> None:
    engine = await start_engine(slots=1, tpot_ms=20)
    first = asyncio.create_task(engine.post(CHAT, chat(max_tokens=100_000)))
    await engine.until(running=1)
    second = asyncio.create_task(engine.post(CHAT, chat(max_tokens=2)))
    await engine.until(waiting=1)
    first.cancel()
    status, _ = await second
    assert status == 200
    await engine.until(finished=1, aborted=1, running=0, waiting=0)
