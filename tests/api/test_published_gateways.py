"""The published gateways run on our control plane, in both modes, in front of engines of both wires."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest

from sagellm_control.embedded.ports import free_port
from sagellm_control.store.settings import RedisSettings

from ..flow.conftest import SimulatedEngine
from ..waiting import wait_until
from .conftest import Mode, StartEngine, schedulers_and_workers
from .published_gateways import VERSIONS, environment

START_WITHIN_S = 60.0


class Gateway:
    """A gateway process, and how one talks to it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def get(self, path: str) -> tuple[int, Any]:
        async with self._session.get(self.url + path) as response:
            return response.status, orjson.loads(await response.read())

    async def post(self, path: str, **body: Any) -> tuple[int, bytes]:
        async with self._session.post(self.url + path, json=body) as response:
            return response.status, await response.read()

    async def delete(self, path: str) -> int:
        async with self._session.delete(self.url + path) as response:
            return response.status

    async def register(self, engine_id: str, model: str, engine: SimulatedEngine, kind: str = "llm") -> None:
        where = urlsplit(engine.url)
        body = {"engine_id": engine_id, "model_id": model, "host": where.hostname, "port": where.port}
        status, answer = await self.post("/v1/management/engines/register", engine_kind=kind, **body)
        assert status == 200, answer


@pytest.fixture(params=VERSIONS)
async def gateway(
    request: pytest.FixtureRequest, mode: Mode, redis_settings: RedisSettings, tmp_path: Path
) -> AsyncGenerator[Gateway, None]:
    ours = {"SAGELLM_CONTROL_MANAGER_HEALTH_CHECK_INTERVAL_S": "0.2"}
    async with AsyncExitStack() as stack:
        if mode is Mode.SHARED:
            ours |= {
                "SAGELLM_CONTROL_REDIS_URL": redis_settings.url,
                "SAGELLM_CONTROL_REDIS_NAMESPACE": redis_settings.namespace,
            }
            await stack.enter_async_context(schedulers_and_workers(redis_settings))
        yield await stack.enter_async_context(_running(request.param, tmp_path, ours))


@asynccontextmanager
async def _running(version: str, folder: Path, ours: dict[str, str]) -> AsyncGenerator[Gateway, None]:
    port = free_port()
    settings = await asyncio.to_thread(environment, version, HOME=str(folder), **ours)
    with (folder / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sagellm_gateway", "--host", "127.0.0.1", "--port", str(port)),
            env=settings,
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            gateway = Gateway(f"http://127.0.0.1:{port}", session)

            async def up() -> bool:
                assert process.returncode is None, (folder / "gateway.log").read_text()[-3000:]
                try:
                    return (await gateway.get("/health"))[0] == 200
                except aiohttp.ClientError:
                    return False

            await wait_until(up, START_WITHIN_S, what="the gateway answers")
            yield gateway
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.mark.timeout(360)
async def test_a_gateway_runs_unchanged(gateway: Gateway, start_engine: StartEngine) -> None:
    await gateway.register("e-openai", "model-a", await start_engine(models=["model-a"]))
    await gateway.register("e-sagellm", "model-b", await start_engine(models=["model-b"], wire="sagellm"))
    await gateway.register("e-vectors", "vectors", await start_engine(models=["vectors"]), "embedding")

    async def all_healthy() -> bool:
        return (await gateway.get("/v1/management/engines"))[1]["healthy"] == 3

    await wait_until(all_healthy, 20, what="all engines are healthy")
    assert (await gateway.get("/ready"))[0] == 200
    _, models = await gateway.get("/v1/models")
    assert {"model-a", "model-b"} <= {model["id"] for model in models["data"]}
    for model in ("model-a", "model-b"):
        await _chats(gateway, model)
    status, answer = await gateway.post("/v1/embeddings", model="vectors", input=["one", "two"])
    assert status == 200, answer
    assert len(orjson.loads(answer)["data"]) == 2

    _, engine = await gateway.get("/v1/management/engines/e-openai")
    assert (engine["engine_id"], engine["state"]) == ("e-openai", "READY")
    for name in ("e-openai", "e-sagellm", "e-vectors"):
        assert await gateway.delete(f"/v1/management/engines/{name}") == 200

    async def all_gone() -> bool:
        # Where the state is shared they are shown until their worker has let go of them.
        return (await gateway.get("/v1/management/engines"))[1]["total"] == 0

    await wait_until(all_gone, what="no engine is left")


async def _chats(gateway: Gateway, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
    status, answer = await gateway.post("/v1/chat/completions", **asked)
    assert status == 200, answer
    text = orjson.loads(answer)["choices"][0]["message"]["content"]
    assert text
    usage = orjson.loads(answer)["usage"]
    assert (usage["completion_tokens"], usage["prompt_tokens"] > 0) == (5, True), usage
    status, answer = await gateway.post("/v1/chat/completions", **asked, stream=True)
    assert status == 200, answer
    lines = [line.removeprefix(b"data: ") for line in answer.split(b"\n") if line.startswith(b"data: ")]
    assert lines.pop() == b"[DONE]"
    pieces = [orjson.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines]
    assert "".join(pieces) == text
    status, answer = await gateway.post("/v1/completions", model=model, prompt="Hello", max_tokens=5)
    if status != 404:  # 0.4 has no such path
        assert status == 200, answer
        assert orjson.loads(answer)["choices"][0]["text"]
