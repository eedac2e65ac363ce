"""kill -9 of real processes: nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
import signal

from sagellm_control.store.views import find_request
from sagellm_control.wire.states import EngineState

from ..waiting import wait_until
from .chats import Chat, stream_chat
from .real_processes import RealProcesses

SLOW_PREFILL = ("--prefill-tokens-per-s", "1", "--tpot-ms", "1")
"""Seconds before the first token: a request is caught while nothing of its answer is out."""


async def test_scheduler_killed_with_arrivals_unread_and_read(processes: RealProcesses) -> None:
    engine = await processes.engine("--tpot-ms", "1")
    await processes.worker(engine)
    first = await processes.start("scheduler", "--reclaim-idle-s", "0.5")
    _, url = await processes.gateway()
    (await stream_chat(processes.session, url, "warm up", 2)).check()
    # Stopped, it may hold arrivals that it has read; then it dies with them.
    first.signal(signal.SIGSTOP)
    chats = [asyncio.create_task(stream_chat(processes.session, url, f"chat {i}", 5)) for i in range(20)]
    await wait_until(lambda: _accepted(processes, 21), what="all are accepted")
    await first.kill()
    await processes.start("scheduler", "--reclaim-idle-s", "0.5")
    for chat in await asyncio.gather(*chats):
        chat.check()


async def test_worker_killed_before_the_first_token(processes: RealProcesses) -> None:
    slow = await processes.engine(*SLOW_PREFILL)
    fast = await processes.engine("--tpot-ms", "1", "--prefill-tokens-per-s", "0")
    doomed = await processes.worker(slow, flags=("--lease-s", "1"))
    await processes.start("scheduler")
    _, url = await processes.gateway()
    prompt = "what will become of me " * 8
    chat = asyncio.create_task(stream_chat(processes.session, url, prompt, 6))
    await wait_until(lambda: _running(processes, slow), what="the slow engine runs it")
    await processes.worker(fast)
    await doomed.kill()
    answer = await chat
    answer.check()
    view = await find_request(processes.store, answer.request_id)
    assert view is not None
    assert view.attempt == 2
    assert view.fields["lapses"] == "1"
    assert view.fields["failures"] == "0"
    states = {v.url: v.state for v in await processes.engines()}
    assert states == {slow: EngineState.ERROR, fast: EngineState.READY}


async def test_stopped_worker_that_wakes_up_reaches_nobody(processes: RealProcesses) -> None:
    slow = await processes.engine("--prefill-tokens-per-s", "40", "--tpot-ms", "1")
    fast = await processes.engine("--tpot-ms", "30", "--prefill-tokens-per-s", "0")
    paused = await processes.worker(slow, flags=("--lease-s", "1"))
    await processes.start("scheduler")
    _, url = await processes.gateway()
    prompt = "who speaks to me " * 10
    chat = Chat(prompt, 60)
    task = asyncio.create_task(stream_chat(processes.session, url, prompt, 60, chat))
    await wait_until(lambda: _running(processes, slow), what="the slow engine runs it")
    paused.signal(signal.SIGSTOP)
    await processes.worker(fast)
    await wait_until(lambda: len(chat.pieces) > 3, what="the other engine answers")
    # Awake again it finds its engine's answer in its socket, and has to drop it.
    paused.signal(signal.SIGCONT)
    (await task).check()
    await processes.until_ready(slow, fast)


async def test_worker_killed_in_mid_answer_that_is_not_to_be_continued(processes: RealProcesses) -> None:
    engine = await processes.engine("--tpot-ms", "50")
    worker = await processes.worker(engine, flags=("--lease-s", "1"))
    await processes.start("scheduler")
    _, url = await processes.gateway()
    chat = Chat("say something long", 400)
    asked = stream_chat(processes.session, url, chat.prompt, chat.tokens, chat, **{"X-Mid-Stream-Retry": "never"})
    task = asyncio.create_task(asked)
    await wait_until(lambda: len(chat.pieces) > 2, what="some tokens are out")
    await worker.kill()
    await task
    assert chat.error is not None
    assert chat.error["code"] == "engine_lost"
    assert not chat.done
    assert chat.expected.startswith(chat.text)


async def test_standby_worker_takes_over_an_engine(processes: RealProcesses) -> None:
    engine = await processes.engine("--tpot-ms", "1")
    first = await processes.worker(engine, flags=("--lease-s", "1"))
    second = await processes.worker(engine, flags=("--lease-s", "1"))
    await processes.start("scheduler")
    _, url = await processes.gateway()
    (await stream_chat(processes.session, url, "one", 3)).check()
    holder = (await processes.engines())[0].worker
    await first.kill()
    await wait_until(lambda: _held_by_another(processes, holder), what="the standby holds the engine")
    (await stream_chat(processes.session, url, "two", 3)).check()
    assert second.process.returncode is None


async def test_gateway_killed_leaves_no_reservation(processes: RealProcesses) -> None:
    engine = await processes.engine("--tpot-ms", "5")
    await processes.worker(engine)
    await processes.start("scheduler")
    gateway, url = await processes.gateway()
    chat = Chat("nobody will read this", 50)
    task = asyncio.create_task(stream_chat(processes.session, url, chat.prompt, chat.tokens, chat))
    await wait_until(lambda: len(chat.pieces) > 2, what="some tokens are out")
    await gateway.kill()
    await asyncio.gather(task, return_exceptions=True)
    await wait_until(lambda: _nothing_active(processes), what="the request has ended")


async def _accepted(processes: RealProcesses, count: int) -> bool:
    keys = processes.store.keys.pool("simulated-1")
    return int(await processes.store.commands.hget(keys.counters, "accepted") or 0) >= count


async def _running(processes: RealProcesses, url: str) -> bool:
    return (await processes.engine_state(url))["running"] > 0


async def _held_by_another(processes: RealProcesses, holder: str) -> bool:
    view = (await processes.engines())[0]
    return view.worker not in ("", holder) and view.state is EngineState.READY


async def _nothing_active(processes: RealProcesses) -> bool:
    return all(view.active == 0 for view in await processes.engines())
