"""A real model behind the queue: llama.cpp's servers, `sagellm-control up`, and the official `openai` client.

`examples/get_real_engine.sh FOLDER` fetches the engine and the weights and prints the two variables to set; then
`pytest -m real` runs these tests.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from openai import AsyncOpenAI

from sagellm_control.store.connect import Store, open_store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.views import RequestView, find_request, list_requests
from sagellm_control.wire.states import RequestState

from ..waiting import wait_until

ENGINES = 2
SLOTS = 4
WAIT_LIMIT_S = 30.0
LONG = 1500
"""Tokens of an answer that is still running when it is looked at; the slots have room for 2048."""

EXAMPLE = Path(__file__).parents[2] / "examples" / "real_engine.py"


pytestmark = pytest.mark.real


def _file_named_by(variable: str) -> Path:
    path = Path(os.environ.get(variable, ""))
    assert path.is_file(), f"{variable} must name a file: see examples/get_real_engine.sh"
    return path


@pytest.fixture(scope="module")
def example() -> Generator[ModuleType]:
    """The example script as a module: it starts the processes and checks answers."""
    spec = importlib.util.spec_from_file_location("real_engine", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their annotations up under its name.
    sys.modules["real_engine"] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules["real_engine"]


@dataclass(frozen=True)
class Running:
    """Two llama-servers and the system in front of them."""

    example: ModuleType
    urls: list[str]
    system: Any

    async def busy(self) -> list[int]:
        """How many of each llama-server's slots are busy."""
        return [sum(slot["is_processing"] for slot in json.loads(await _get(f"{url}/slots"))) for url in self.urls]

    async def deferred(self) -> list[int]:
        """Requests that wait inside each llama-server because its slots are taken."""
        pages = [(await _get(f"{url}/metrics")).decode().splitlines() for url in self.urls]
        name = "llamacpp:requests_deferred "
        return [int(float(next(line for line in page if line.startswith(name)).split()[1])) for page in pages]

    @asynccontextmanager
    async def long_stream(self, client: AsyncOpenAI, request_id: str, priority: str = "NORMAL") -> AsyncGenerator[Any]:
        """An answer that goes on and on; the end of the context is a client that leaves."""
        stream = await client.chat.completions.create(
            model=self.example.MODEL,
            messages=[{"role": "user", "content": "Count from one to a thousand, in words."}],
            max_tokens=LONG,
            stream=True,
            extra_body={"ignore_eos": True},
            extra_headers={"X-Request-ID": request_id, "X-Request-Priority": priority},
        )
        try:
            yield stream
        finally:
            await stream.close()


@dataclass(frozen=True)
class Queue:
    """What Redis says. Not asked through the command line: a new Python a look is slow while a model runs."""

    store: Store

    async def record(self, request_id: str) -> RequestView:
        """The request of this id."""
        view = await find_request(self.store, request_id)
        assert view is not None
        return view

    async def waiting(self) -> list[str]:
        """The ids of those that wait, in their order."""
        return [view.request_id for view in await list_requests(self.store, state=RequestState.WAITING)]

    async def state(self, request_id: str) -> RequestState:
        """Where it is."""
        return (await self.record(request_id)).state


@pytest.fixture(scope="module")
def running(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    folder = tmp_path_factory.mktemp("real")
    binary, weights = _file_named_by("SAGELLM_TEST_LLAMA_SERVER"), _file_named_by("SAGELLM_TEST_GGUF")
    with (
        example.llama_servers(binary, weights, folder, count=ENGINES, slots=SLOTS) as urls,
        example.control_plane(urls, folder / "up") as system,
    ):
        yield Running(example, urls, system)


@pytest.fixture
async def queue(running: Running) -> AsyncGenerator[Queue]:
    async with open_store(RedisSettings(url=running.system.redis_url)) as store:
        yield Queue(store)


async def test_concurrent_chats_of_all_priorities_are_answered_in_full(running: Running) -> None:
    # In a thread: it runs a loop of its own, as the script does.
    chats, _ = await asyncio.to_thread(lambda: asyncio.run(running.example.run_chats(running.system, 6, 24)))
    assert [chat.problems for chat in chats] == [[]] * 6
    assert len({chat.engine for chat in chats}) == ENGINES, "least_loaded spreads them over both engines"


async def test_a_client_that_leaves_frees_its_slot(running: Running, queue: Queue) -> None:
    async with running.system.client() as client:
        async with running.long_stream(client, "leaver") as stream:
            chunks = aiter(stream)
            for _ in range(5):
                await anext(chunks)
            assert sum(await running.busy()) == 1
        await _until(running.busy, [0] * ENGINES)
    await _until(lambda: queue.state("leaver"), RequestState.FINISHED)
    record = await queue.record("leaver")
    assert (record.outcome, record.attempt) == ("cancelled", 1)


async def test_what_exceeds_the_slots_waits_in_the_queue_and_not_in_the_engine(running: Running, queue: Queue) -> None:
    runners = [f"runner-{number}" for number in range(ENGINES * SLOTS)]
    async with running.system.client() as client, _Streams(running, client) as streams:
        for request_id in runners:
            await streams.open(request_id)
        await _until(running.busy, [SLOTS] * ENGINES)
        # One too many, then one that is more urgent: it goes before the other.
        await streams.open("ninth", answers=False)
        await _until(queue.waiting, ["ninth"])
        await streams.open("urgent", "CRITICAL", answers=False)
        await _until(queue.waiting, ["urgent", "ninth"])
        assert await running.busy() == [SLOTS] * ENGINES
        assert await running.deferred() == [0] * ENGINES

        await streams.leave(runners[0])
        await _until(lambda: queue.state("urgent"), RequestState.RUNNING)
        assert await queue.waiting() == ["ninth"]
        await streams.leave(runners[1])
        await _until(lambda: queue.state("ninth"), RequestState.RUNNING)
        assert await queue.waiting() == []
        assert (await queue.record("ninth")).engine == (await queue.record(runners[1])).engine
        # llama.cpp notices that a client has left at its next token, and who takes the place may be there before.
        await _until(running.deferred, [0] * ENGINES)
        await _until(running.busy, [SLOTS] * ENGINES)
    await _until(running.busy, [0] * ENGINES)
    assert {(await queue.record(request_id)).outcome for request_id in runners} == {"cancelled"}


class _Streams:
    """Streams that are read in the background until their clients leave."""

    def __init__(self, running: Running, client: AsyncOpenAI) -> None:
        self._running = running
        self._client = client
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> _Streams:
        return self

    async def __aexit__(self, *_: object) -> None:
        for request_id in list(self._tasks):
            await self.leave(request_id)

    async def open(self, request_id: str, priority: str = "NORMAL", *, answers: bool = True) -> None:
        """Start to read; with ``answers``, return when the first chunk has come."""
        begun = asyncio.Event()
        self._tasks[request_id] = asyncio.create_task(self._read(request_id, priority, begun), name=request_id)
        if answers:
            await asyncio.wait_for(begun.wait(), WAIT_LIMIT_S)

    async def leave(self, request_id: str) -> None:
        """The client goes away in the middle of its answer."""
        task = self._tasks.pop(request_id)
        assert not task.done(), f"{request_id} ended by itself: {task.exception()}"
        task.cancel()
        await asyncio.wait([task])

    async def _read(self, request_id: str, priority: str, begun: asyncio.Event) -> None:
        async with self._running.long_stream(self._client, request_id, priority) as stream:
            async for _ in stream:
                begun.set()


async def _until(look: Callable[[], Awaitable[Any]], expected: object) -> None:
    async def so() -> bool:
        return await look() == expected

    await wait_until(so, WAIT_LIMIT_S, what=f"{look} to be {expected}")


async def _get(url: str) -> bytes:
    def get() -> bytes:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read()

    # In a thread, so that the streams go on meanwhile.
    return await asyncio.to_thread(get)
