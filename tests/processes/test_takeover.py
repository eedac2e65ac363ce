"""kill -9 with half an answer out: of the worker, of the engine, of the gateway. The client gets every token once."""

from __future__ import annotations

import asyncio
import json
import signal

import aiohttp
import pytest

from sagellm_control.store.views import find_request

from ..waiting import wait_until
from .chats import MODEL, Chat, stream_chat
from .real_processes import RealProcess, RealProcesses

SHORT_LEASE = ("--lease-s", "1")


async def _halfway(processes: RealProcesses, url: str) -> tuple[Chat, asyncio.Task[Chat]]:
    """A chat that would take long, with some of its tokens out."""
    chat = Chat("say something long", 100)
    task = asyncio.create_task(stream_chat(processes.session, url, chat.prompt, chat.tokens, chat))
    await wait_until(lambda: len(chat.pieces) > 2, what="some tokens are out")
    return chat, task


@pytest.mark.parametrize("lost", ["worker", "engine", "worker, for a while"])
async def test_another_engine_goes_on(processes: RealProcesses, lost: str) -> None:
    first = await processes.engine("--tpot-ms", "400")
    engine = processes.started[-1]
    worker = await processes.worker(first, flags=SHORT_LEASE)
    await processes.start("scheduler")
    _, url = await processes.gateway()
    chat, task = await _halfway(processes, url)
    second = await processes.engine("--tpot-ms", "20")
    await processes.worker(second)
    await _lose(lost, worker, engine)
    got = len(chat.pieces)
    await wait_until(lambda: len(chat.pieces) > got + 4, what="it goes on")
    # Awake again the first worker finds tokens in its socket, which nobody is to see.
    if worker.process.returncode is None:
        worker.signal(signal.SIGCONT)
    (await task).check()
    view = await find_request(processes.store, chat.request_id)
    assert view is not None
    assert view.attempt >= 2
    assert (view.fields["failures"] == "0", view.fields["lapses"]) == (
        (False, "0") if lost == "engine" else (True, "1")
    )


async def _lose(lost: str, worker: RealProcess, engine: RealProcess) -> None:
    match lost:
        case "worker":
            await worker.kill()
        case "engine":
            await engine.kill()
        case _:
            worker.signal(signal.SIGSTOP)


async def test_a_gateway_that_was_killed_is_not_missed(processes: RealProcesses) -> None:
    engine = await processes.engine("--tpot-ms", "20")
    await processes.worker(engine)
    await processes.start("scheduler")
    gateway, url = await processes.gateway()
    expected = Chat("tell me more", 150).expected
    body = {
        "model": MODEL,
        "stream": True,
        "max_tokens": 150,
        "messages": [{"role": "user", "content": "tell me more"}],
    }
    got: list[tuple[str, str]] = []
    async with processes.session.post(
        f"{url}/v1/chat/completions", json=body, headers={"X-Event-IDs": "true"}
    ) as answer:
        request_id = answer.headers["X-Request-ID"]
        reading = asyncio.create_task(_read(answer, got))
        await wait_until(lambda: len(got) > 8, what="some tokens are out")
        await gateway.kill()
        with pytest.raises(aiohttp.ClientError):
            await reading
    text, last = "".join(piece for _, piece in got), got[-1][0]
    assert expected.startswith(text)
    assert text != expected
    _, url = await processes.gateway()
    resumed = f"{url}/v1/requests/{request_id}/events"
    async with processes.session.get(resumed, headers={"Last-Event-ID": last}) as answer:
        assert answer.status == 200
        rest: list[tuple[str, str]] = []
        await _read(answer, rest)
    text += "".join(piece for _, piece in rest)
    assert text == expected


async def _read(answer: aiohttp.ClientResponse, found: list[tuple[str, str]]) -> None:
    """Add id and text of each event."""
    event_id = ""
    async for line in answer.content:
        if line.startswith(b"id: "):
            event_id = line.removeprefix(b"id: ").decode().strip()
        elif line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            found.append((event_id, json.loads(line[6:])["choices"][0]["delta"].get("content") or ""))
