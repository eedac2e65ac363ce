"""SIGSTOP of an engine: it takes connections and says nothing. What it has is not left with it."""

from __future__ import annotations

import asyncio
import signal

from sagellm_control.store.views import EngineView, find_request
from sagellm_control.wire.states import EngineState, RequestState
from sagellm_workers.health.health import NOT_ANSWERING

from ..waiting import wait_until
from .chats import MODEL, Chat, stream_chat
from .real_processes import RealProcesses

SOON = ("--health-interval-s", "0.1", "--health-timeout-s", "0.5", "--gone-after-s", "1.5", "--slow-start-s", "0")
WHOLE = Chat("in one piece", 120)


async def ask_plainly(processes: RealProcesses, url: str) -> str:
    """The text of an answer that is no stream."""
    body = {"model": MODEL, "max_tokens": WHOLE.tokens, "messages": [{"role": "user", "content": WHOLE.prompt}]}
    async with processes.session.post(f"{url}/v1/chat/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        return (await answer.json())["choices"][0]["message"]["content"]


async def engine_is(processes: RealProcesses, engine: str, state: EngineState) -> EngineView | None:
    return next((v for v in await processes.engines() if v.url == engine and v.state is state), None)


async def test_what_a_hanging_engine_has_goes_on_elsewhere(processes: RealProcesses) -> None:
    first = await processes.engine("--tpot-ms", "300")
    hanging = processes.started[-1]
    await processes.worker(first, flags=SOON)
    await processes.start("scheduler")
    _, url = await processes.gateway()
    chat = Chat("say something long", 120)
    streamed = asyncio.create_task(stream_chat(processes.session, url, chat.prompt, chat.tokens, chat))
    plain = asyncio.create_task(ask_plainly(processes, url))
    await wait_until(lambda: len(chat.pieces) > 2, what="some tokens are out")

    async def both_run() -> bool:
        return (await processes.engine_state(first))["running"] == 2

    await wait_until(both_run, what="both run")
    second = await processes.engine("--tpot-ms", "1")
    await processes.worker(second)
    hanging.signal(signal.SIGSTOP)
    (await streamed).check()
    assert await plain == WHOLE.expected
    view = await find_request(processes.store, chat.request_id)
    assert view is not None
    assert view.attempt >= 2
    stopped = await wait_until(lambda: engine_is(processes, first, EngineState.ERROR), what="it is known to be gone")
    assert stopped.reason == NOT_ANSWERING
    hanging.signal(signal.SIGCONT)
    await processes.until_ready(first)


async def test_without_another_engine_it_waits_until_the_engine_is_back(processes: RealProcesses) -> None:
    only = await processes.engine("--tpot-ms", "100")
    hanging = processes.started[-1]
    await processes.worker(only, flags=SOON)
    await processes.start("scheduler")
    _, url = await processes.gateway()
    chat = Chat("say something long", 40)
    streamed = asyncio.create_task(stream_chat(processes.session, url, chat.prompt, chat.tokens, chat))
    await wait_until(lambda: len(chat.pieces) > 2, what="some tokens are out")
    hanging.signal(signal.SIGSTOP)

    async def waits() -> bool:
        view = await find_request(processes.store, chat.request_id)
        return view is not None and view.state is RequestState.WAITING

    await wait_until(waits, what="it waits")
    assert await engine_is(processes, only, EngineState.ERROR)
    hanging.signal(signal.SIGCONT)
    (await streamed).check()
