"""An engine started in the test's own process on a free port, and what tests ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import orjson
import pytest

from sagellm_control.simulated_engine import SimulatedEngineSettings
from sagellm_control.simulated_engine.process import serve

# Costs nothing: such an engine is as fast as Python.
FREE = {"prefill_tokens_per_s": 0, "tpot_ms": 0, "tpot_per_running_ms": 0}
# An answer that is still running when the test is over: an hour between two tokens.
ENDLESS = {"prefill_tokens_per_s": 0, "tpot_ms": 3_600_000}

WAIT_LIMIT_S = 10.0


@dataclass
class RunningEngine:
    url: str
    session: aiohttp.ClientSession

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        """Status and decoded JSON. Keyword headers: X_Simulate_Fault="hang" sends X-Simulate-Fault."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(self.url + path, data=orjson.dumps(body), headers=sent) as response:
            return response.status, orjson.loads(await response.read())

    async def get(self, path: str) -> Any:
        async with self.session.get(self.url + path) as response:
            assert response.status == 200
            return orjson.loads(await response.read())

    async def events(self, path: str, body: object) -> list[Any]:
        """All server-sent events of a stream: decoded JSON, and "[DONE]" as it is."""
        async with self.session.post(self.url + path, data=orjson.dumps(body)) as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith("text/event-stream")
            lines = (await response.read()).decode().split("\n\n")
        assert lines.pop() == ""
        payloads = [line.removeprefix("data: ") for line in lines]
        return [payload if payload == "[DONE]" else orjson.loads(payload) for payload in payloads]

    async def until(self, **expected: int) -> dict[str, Any]:
        """Wait until /simulated/state has these values."""
        async with asyncio.timeout(WAIT_LIMIT_S):
            while True:
                state = await self.get("/simulated/state")
                if all(state[name] == value for name, value in expected.items()):
                    return state
                await asyncio.sleep(0.002)


class StartEngine(Protocol):
    def __call__(self, **settings: Any) -> Awaitable[RunningEngine]: ...


@pytest.fixture
async def start_engine() -> AsyncGenerator[StartEngine, None]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def start(**settings: Any) -> RunningEngine:
            chosen = SimulatedEngineSettings.model_validate({"port": 0, **FREE, **settings})
            return RunningEngine(await stack.enter_async_context(serve(chosen)), session)

        yield start


def chat(text: str = "hello", **fields: object) -> dict[str, object]:
    """The body of a chat request."""
    return {"model": "simulated-1", "messages": [{"role": "user", "content": text}], **fields}
