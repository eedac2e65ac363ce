"""A real model behind the queue: llama.cpp's servers, `sagellm-control up`, and the official `openai` client.

`examples/get_real_engine.sh FOLDER` fetches the engine and the weights and prints the two variables to set.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import urllib.request
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from openai import AsyncOpenAI

ENGINES = 2
SLOTS = 4
WAIT_LIMIT_S = 30.0
LONG = 600
"""Tokens of an answer that is still running when it is looked at: some ten seconds."""

EXAMPLE = Path(__file__).parents[2] / "examples" / "real_engine.py"


def _file_named_by(variable: str) -> Path | None:
    path = Path(os.environ.get(variable, ""))
    return path if path.is_file() else None


SERVER = _file_named_by("SAGELLM_TEST_LLAMA_SERVER")
WEIGHTS = _file_named_by("SAGELLM_TEST_GGUF")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        SERVER is None or WEIGHTS is None,
        reason="SAGELLM_TEST_LLAMA_SERVER and SAGELLM_TEST_GGUF must name files: see examples/get_real_engine.sh",
    ),
]


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

    def slots(self) -> list[list[dict[str, Any]]]:
        """For each llama-server its slots that are busy."""
        return [[slot for slot in _get(f"{url}/slots") if slot["is_processing"]] for url in self.urls]

    def busy(self) -> list[int]:
        """How many of each llama-server's slots are busy."""
        return [len(slots) for slots in self.slots()]

    def deferred(self) -> list[int]:
        """Requests that wait inside each llama-server because its slots are taken."""
        return [_metric(url, "llamacpp:requests_deferred") for url in self.urls]

    def state(self, request_id: str) -> dict[str, Any]:
        """What `requests show` says."""
        return self.system.ask("requests", "show", request_id)

    def in_state(self, state: str) -> list[str]:
        """The ids of the requests in this state, those of these tests and all others."""
        return [row["request_id"] for row in self.system.ask("requests", "list", "--state", state)]

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


@pytest.fixture(scope="module")
def running(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    folder = tmp_path_factory.mktemp("real")
    with (
        example.llama_servers(SERVER, WEIGHTS, folder, count=ENGINES, slots=SLOTS) as urls,
        example.control_plane(urls, folder / "up") as system,
    ):
        yield Running(example, urls, system)


async def test_concurrent_chats_of_all_priorities_are_answered_in_full(running: Running) -> None:
    # In a thread: it runs a loop of its own, as the script does.
    chats, _ = await asyncio.to_thread(lambda: asyncio.run(running.example.run_chats(running.system, 6, 24)))
    assert [chat.problems for chat in chats] == [[]] * 6
    assert len({chat.engine for chat in chats}) == ENGINES, "least_loaded spreads them over both engines"


async def test_a_client_that_leaves_frees_its_slot(running: Running) -> None:
    async with running.system.client() as client:
        async with running.long_stream(client, "leaver") as stream:
            chunks = aiter(stream)
            for _ in range(5):
                await anext(chunks)
            assert sum(running.busy()) == 1
        await _until(lambda: sum(running.busy()) == 0)
    await _until(lambda: running.state("leaver")["outcome"] == "cancelled")
    record = running.state("leaver")
    assert int(record["attempt"]) == 1


async def test_what_exceeds_the_slots_waits_in_the_queue_and_not_in_the_engine(running: Running) -> None:
    full = ENGINES * SLOTS
    async with running.system.client() as client, _Streams(running, client) as streams:
        for number in range(full):
            await streams.open(f"runner-{number}")
        await _until(lambda: running.busy() == [SLOTS] * ENGINES)
        # One too many, then one that is more urgent: it goes before the other.
        await streams.open("ninth", answers=False)
        await _until(lambda: running.in_state("waiting") == ["ninth"])
        await streams.open("urgent", "CRITICAL", answers=False)
        await _until(lambda: running.in_state("waiting") == ["urgent", "ninth"])
        assert running.busy() == [SLOTS] * ENGINES
        assert running.deferred() == [0] * ENGINES

        await streams.leave("runner-0")
        await _until(lambda: running.in_state("waiting") == ["ninth"])
        await _until(lambda: running.state("urgent")["state"] == "running")
        await _until(lambda: running.busy() == [SLOTS] * ENGINES)
        await streams.leave("runner-1")
        await _until(lambda: running.state("ninth")["state"] == "running")
        assert running.in_state("waiting") == []
        assert running.deferred() == [0] * ENGINES
        assert running.state("ninth")["engine"] == running.state("runner-1")["engine"]
    await _until(lambda: running.busy() == [0] * ENGINES)
    assert {running.state(f"runner-{number}")["outcome"] for number in range(full)} == {"cancelled"}


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


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_LIMIT_S):
        while True:
            # In a thread, so that the streams go on meanwhile.
            if await asyncio.to_thread(condition):
                return
            await asyncio.sleep(0.05)


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def _metric(url: str, name: str) -> int:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith(name + " "))))
