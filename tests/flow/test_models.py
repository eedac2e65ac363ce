"""The list of models: what engines say of them, and which there are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest
from openai import AsyncOpenAI, NotFoundError

from sagellm_control.store.steps.engines import remove_engine
from sagellm_control.wire.request import is_request_id
from sagellm_workers.adapters.openai_http import OpenAIHttpAdapter
from sagellm_workers.http.transport import engine_client

from ..waiting import wait_until
from .asking import CHAT_PATH, error_of
from .conftest import GOOD, StartSystem
from .echo_engine import EchoEngine
from .in_process import InProcessSystem

CARD = {"owned_by": "vllm", "max_model_len": 8192, "meta": {"n_ctx_train": 4096}}


@pytest.fixture
async def engine() -> AsyncGenerator[EchoEngine, None]:
    async with EchoEngine(models=("org/echo:1",), adapters=("lora",), card=CARD) as engine:
        yield engine


async def models(system: InProcessSystem) -> dict[str, dict[str, Any]]:
    async with system.session.get(system.url + "/v1/models") as response:
        assert response.status == 200
        return {model["id"]: model for model in (await response.json())["data"]}


async def until_shown(system: InProcessSystem, name: str, **expected: object) -> dict[str, Any]:
    async def shown() -> dict[str, Any] | None:
        model = (await models(system)).get(name, {})
        return model if model.items() >= expected.items() else None

    return await wait_until(shown, what=f"{name} is shown with {expected}")


async def test_what_an_engine_says_of_its_models_is_passed_on(engine: EchoEngine, start_system: StartSystem) -> None:
    system = await start_system(engine, worker_survey_interval_s=0.1)
    model = await until_shown(system, "org/echo:1", **CARD)
    assert set(model) == {"id", "object", "created", "served_by", *CARD}
    assert (await until_shown(system, "lora", parent="org/echo:1"))["owned_by"] == "sagellm"
    engine.card = {"owned_by": "vllm", "max_model_len": 16384}
    model = await until_shown(system, "org/echo:1", max_model_len=16384)
    assert "meta" not in model


async def test_a_gateway_is_not_taken_for_the_engine_behind_it(engine: EchoEngine, start_system: StartSystem) -> None:
    system = await start_system(engine)
    await until_shown(system, "org/echo:1", **CARD)
    async with engine_client() as client:
        facts = await OpenAIHttpAdapter(system.url, client).probe()
    assert facts.kind == "openai"
    assert [orjson.loads(model.card) for model in facts.models if model.name == "org/echo:1"] == [CARD]


@pytest.mark.parametrize("path", ["org/echo:1", "org%2Fecho%3A1"])
async def test_one_model_is_as_in_the_list(engine: EchoEngine, start_system: StartSystem, path: str) -> None:
    system = await start_system(engine)
    listed = await until_shown(system, "org/echo:1", **CARD)
    async with system.session.get(f"{system.url}/v1/models/{path}") as response:
        assert (response.status, await response.json()) == (200, listed)


async def test_openais_client_reads_them(engine: EchoEngine, start_system: StartSystem) -> None:
    system = await start_system(engine)
    await until_shown(system, "org/echo:1", **CARD)
    async with AsyncOpenAI(base_url=f"{system.url}/v1", api_key="unused", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == ["lora", "org/echo:1"]
        model = await client.models.retrieve("org/echo:1")
        assert (model.owned_by, model.to_dict()["max_model_len"]) == ("vllm", 8192)
        with pytest.raises(NotFoundError) as refused:
            await client.models.retrieve("nobody")
    assert is_request_id(refused.value.request_id or "")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/lora"])
async def test_its_ids_come_back(engine: EchoEngine, start_system: StartSystem, path: str) -> None:
    system = await start_system(engine)
    await until_shown(system, "lora")
    async with system.session.get(system.url + path, headers={"X-Request-ID": "e3"}) as response:
        assert (response.status, response.headers["X-Request-ID"]) == (200, "e3")
    async with system.session.get(system.url + path) as response:
        assert is_request_id(response.headers["X-Request-ID"])


async def test_a_model_whose_last_engine_is_removed_is_unknown(engine: EchoEngine, start_system: StartSystem) -> None:
    engine.answer(GOOD)
    system = await start_system()
    body = {"model": "lora", "messages": [{"role": "user", "content": "hi"}]}

    async def refusal() -> tuple[int, str, str]:
        async with system.session.post(system.url + CHAT_PATH, json=body) as response:
            error = await error_of(response)
            return response.status, error["code"], error["message"]

    async with system.worker(engine.url):
        await until_shown(system, "lora")
        headers = {"X-Request-ID": "before"}
        async with system.session.post(system.url + CHAT_PATH, json=body, headers=headers) as response:
            assert response.status == 200
    assert (await refusal())[:2] == (503, "no_engine"), "it is down, and may come back"

    async def is_down() -> bool:
        async with system.session.get(system.url + "/v1/models/lora") as response:
            return response.status == 503 and (await error_of(response))["code"] == "no_engine"

    await wait_until(is_down, what="the gateway has seen that")
    (view,) = await system.engine_views()
    assert await remove_engine(system.store, view.pool, view.engine_id) == "forgotten"

    async def is_unknown() -> bool:
        status, code, message = await refusal()
        return (status, code) == (503, "no_engine") and "no engine has registered" in message

    await wait_until(is_unknown, what="the model is unknown")
    async with system.session.get(system.url + "/v1/requests/before/result") as response:
        assert (response.status, await response.read()) == (200, GOOD), "what it has done is still there"
