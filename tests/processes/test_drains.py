"""SIGTERM of real processes under load: everything that runs is finished, nothing fails."""

from __future__ import annotations

import asyncio

from sagellm_control.store.steps.engines import drain_engine
from sagellm_control.wire.states import EngineState

from ..waiting import wait_until
from .chats import Chat, stream_chat
from .real_processes import RealProcesses


async def test_worker_finishes_what_runs_and_gives_back_the_rest(processes: RealProcesses) -> None:
    ends = await processes.engine("--slots", "2", "--tpot-ms", "20")
    # Prefetch makes it hold requests that have not started.
    worker = await processes.worker(ends, flags=("--prefetch", "4"))
    other = await processes.engine("--slots", "4", "--tpot-ms", "1")
    await processes.worker(other)
    (spare,) = [view for view in await processes.engines() if view.url == other]
    await drain_engine(processes.store, spare.pool, spare.engine_id)
    await processes.start("scheduler")
    _, url = await processes.gateway()
    chats = [Chat(f"chat {i}", 200) for i in range(6)]
    tasks = [asyncio.create_task(stream_chat(processes.session, url, c.prompt, c.tokens, c)) for c in chats]
    await wait_until(lambda: sum(bool(c.pieces) for c in chats) == 2, what="two chats run")
    await drain_engine(processes.store, spare.pool, spare.engine_id, drain=False)
    assert await worker.terminate() == 0
    for chat in await asyncio.gather(*tasks):
        chat.check()
    state = await processes.engine_state(ends)
    assert (state["finished"], state["aborted"]) == (2, 0)
    views = {view.url: view for view in await processes.engines()}
    assert views[ends].state is EngineState.STOPPED
    assert views[ends].active == 0


async def test_worker_drain_has_a_deadline(processes: RealProcesses) -> None:
    engine = await processes.engine("--tpot-ms", "50")
    worker = await processes.worker(engine, flags=("--drain-s", "0.2"))
    await processes.start("scheduler")
    _, url = await processes.gateway()
    chat = Chat("a long one", 1000)
    never = {"X-Mid-Stream-Retry": "never"}  # else it would wait for another engine to go on with it
    task = asyncio.create_task(stream_chat(processes.session, url, chat.prompt, chat.tokens, chat, **never))
    await wait_until(lambda: len(chat.pieces) > 1, what="some tokens are out")
    assert await worker.terminate() == 0
    await task
    assert chat.error is not None
    assert not chat.done


async def test_gateway_finishes_open_streams(processes: RealProcesses) -> None:
    engine = await processes.engine("--tpot-ms", "20")
    await processes.worker(engine)
    await processes.start("scheduler")
    gateway, url = await processes.gateway()
    chat = Chat("keep talking", 40)
    task = asyncio.create_task(stream_chat(processes.session, url, chat.prompt, chat.tokens, chat))
    await wait_until(lambda: len(chat.pieces) > 2, what="some tokens are out")
    assert await gateway.terminate() == 0
    (await task).check()


async def test_gateway_shutdown_has_a_deadline(processes: RealProcesses) -> None:
    engine = await processes.engine("--tpot-ms", "50")
    await processes.worker(engine)
    await processes.start("scheduler")
    gateway, url = await processes.gateway("--shutdown-s", "0.2")
    chat = Chat("a long one", 1000)
    task = asyncio.create_task(stream_chat(processes.session, url, chat.prompt, chat.tokens, chat))
    await wait_until(lambda: len(chat.pieces) > 1, what="some tokens are out")
    assert await gateway.terminate() == 0
    await task
    assert chat.error is not None
    assert chat.error["code"] == "gateway_stopping"
    assert not chat.done
    assert "not answered within 0.2 s, and whose clients are told so: 1" in gateway.log.read_text()


async def test_schedulers_come_and_go_under_load(processes: RealProcesses) -> None:
    engine = await processes.engine("--tpot-ms", "1", "--slots", "8")
    await processes.worker(engine)
    old = await processes.start("scheduler")
    _, url = await processes.gateway()

    async def talk(number: int) -> None:
        for turn in range(10):
            (await stream_chat(processes.session, url, f"chat {number} turn {turn}", 5)).check()

    async with asyncio.TaskGroup() as talks:
        for number in range(8):
            talks.create_task(talk(number))
        for _ in range(3):
            new = await processes.start("scheduler")
            await wait_until(lambda new=new: "scheduling pool" in new.log.read_text(), 30, what="the new one is there")
            assert await old.terminate() == 0
            old = new


async def test_operator_drains_an_engine_and_takes_it_back(processes: RealProcesses) -> None:
    engine = await processes.engine("--tpot-ms", "1")
    await processes.worker(engine, flags=("--lease-s", "1"))
    await processes.start("scheduler")
    _, url = await processes.gateway()
    view = (await processes.engines())[0]
    drain = await processes.start("engines", "drain", view.engine_id)
    assert await drain.process.wait() == 0, drain.log.read_text()
    refused = await stream_chat(processes.session, url, "anybody there", 2)
    assert refused.status == 503
    undo = await processes.start("engines", "drain", "--undo", view.engine_id)
    assert await undo.process.wait() == 0, undo.log.read_text()
    (await stream_chat(processes.session, url, "welcome back", 2)).check()
