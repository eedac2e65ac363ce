"""Every process is replaced, one by one, under load: no request fails."""

from __future__ import annotations

import asyncio
import itertools

import aiohttp
import pytest

from sagellm_control.embedded.ports import free_port

from ..waiting import wait_until
from .chats import Chat, stream_chat
from .real_processes import READY_WITHIN_S, RealProcess, RealProcesses

CLIENTS = 3
TOKENS = 12


class Load:
    """Clients that talk without a pause. A refused connection sends them to the other gateway; nothing else does."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self.chats: list[Chat] = []
        self.refused = 0
        self._stop = asyncio.Event()

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._talk(session, number))

    def stop(self) -> None:
        self._stop.set()

    async def more(self, count: int = 2 * CLIENTS) -> None:
        """Wait until so many more chats have been answered."""
        target = len(self.chats) + count
        await wait_until(lambda: len(self.chats) >= target, 60, what="the load goes on")

    async def _talk(self, session: aiohttp.ClientSession, number: int) -> None:
        gateways = itertools.cycle(self.urls[number % len(self.urls) :] + self.urls[: number % len(self.urls)])
        for turn in itertools.count():
            if self._stop.is_set():
                return
            while True:
                try:
                    chat = await stream_chat(session, next(gateways), f"client {number} turn {turn}", TOKENS)
                    break
                except aiohttp.ClientConnectorError:
                    self.refused += 1
            self.chats.append(chat)


@pytest.mark.timeout(360)  # some twenty processes are started, one after the other, beside the load
async def test_everything_is_replaced_one_by_one(processes: RealProcesses) -> None:
    engines = [await processes.engine("--tpot-ms", "5", "--slots", "4") for _ in range(2)]
    workers = [await processes.worker(engine) for engine in engines]
    schedulers = [await processes.start("scheduler") for _ in range(2)]
    ports = [free_port() for _ in range(2)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    gateways = [await gateway(processes, port) for port in ports]
    load = Load(urls)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(load.run())
        await load.more()
        for number, worker in enumerate(workers):
            assert await worker.terminate() == 0
            await load.more()
            await processes.worker(engines[number])
            await processes.until_ready(engines[number])
            await load.more()
        for scheduler in schedulers:
            assert await scheduler.terminate() == 0
            await load.more()
            new = await processes.start("scheduler")
            await wait_until(lambda new=new: "scheduling pool" in new.log.read_text(), 30, what="the new one is there")
        for number, old in enumerate(gateways):
            assert await old.terminate() == 0
            await load.more()
            await gateway(processes, ports[number])
            await load.more()
        load.stop()
        await running
    assert len(load.chats) > 50
    for chat in load.chats:
        chat.check()
    await wait_until(lambda: nothing_active(processes), what="no reservation is left")


async def gateway(processes: RealProcesses, port: int) -> RealProcess:
    started = await processes.start("gateway", "--port", str(port))
    await wait_until(
        lambda: processes.answers(f"http://127.0.0.1:{port}/ready"), READY_WITHIN_S, what="the gateway is ready"
    )
    return started


async def nothing_active(processes: RealProcesses) -> bool:
    return all(view.active == 0 for view in await processes.engines())
