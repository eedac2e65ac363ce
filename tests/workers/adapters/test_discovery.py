"""Which wire an engine speaks is found out by asking it."""

from __future__ import annotations

import asyncio
from typing import get_args

import pytest
from aiohttp import web

from sagellm_workers.adapters.base import EngineUnreachable, ModelFacts
from sagellm_workers.adapters.discovery import ADAPTERS, WIRES, discover, discover_registered
from sagellm_workers.http.transport import EngineClient
from sagellm_workers.settings import WorkerSettings

from ..conftest import Serve, StartTalk, ask, read_request

MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm"}]}
LLAMA = {"object": "list", "data": [{"id": "m", "owned_by": "llamacpp"}]}
SERVED_BY = {"served_by": "sagellm-control"}
GATEWAY = {"object": "list", **SERVED_BY, "data": [{"id": "m", "owned_by": "vllm", **SERVED_BY}]}
SGLANG = {"object": "list", "data": [{"id": "m", "owned_by": "sglang"}]}
CORE_INFO = {"engine_id": "core-1", "model_path": "/models/gpt2", "max_batch_size": 32, "is_running": True}
CORE_ROOT = {
    "service": "sageLLM Engine Server",
    "version": "0.1.0",
    "endpoints": {
        "health": "/health",
        "chat_completions": "/v1/chat/completions",
        "completions": "/v1/completions",
        "stream": "/v1/completions/stream",
    },
}
STATES = {"internal_states": [{"effective_max_running_requests_per_dp": 48}], "version": "0.5"}


@pytest.mark.parametrize("suffix", ["", "/v1"])
async def test_vllm(serve: Serve, client: EngineClient, suffix: str) -> None:
    metrics = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="10"} 1.0\n'
    url = await serve({"GET /v1/models": MODELS, "GET /version": {"version": "0.32.0"}, "GET /metrics": metrics})
    adapter, facts = await discover(url + suffix, client)
    assert (adapter.name, adapter.url) == ("openai", url)
    assert (facts.kind, facts.version, facts.slots, facts.kv_tokens) == ("vllm", "0.32.0", None, 160)
    assert facts.models == (ModelFacts("m", card='{"owned_by":"vllm"}'),)
    assert await adapter.probe() == facts


async def test_llama_cpp(serve: Serve, client: EngineClient) -> None:
    props = {"total_slots": 4, "build_info": "b1"}
    _, facts = await discover(await serve({"GET /v1/models": LLAMA, "GET /props": props}), client)
    assert (facts.kind, facts.version, facts.slots) == ("llama.cpp", "b1", 4)


@pytest.mark.parametrize("path", ["/server_info", "/get_server_info"])
async def test_sglang(serve: Serve, client: EngineClient, path: str) -> None:
    _, facts = await discover(await serve({"GET /v1/models": SGLANG, f"GET {path}": STATES}), client)
    assert (facts.kind, facts.version, facts.slots) == ("sglang", "0.5", 48)


async def test_ollama(serve: Serve, client: EngineClient) -> None:
    models = {"object": "list", "data": [{"id": "llama3.2:latest", "owned_by": "library"}]}
    url = await serve({"GET /v1/models": models, "GET /api/version": {"version": "0.12"}})
    adapter, facts = await discover(url, client)
    assert (facts.kind, facts.version, facts.slots) == ("ollama", "0.12", None)
    assert await adapter.healthy()


async def test_sagellm_core(serve: Serve, client: EngineClient) -> None:
    async def chat(request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), content_type="application/json")

    routes = {"GET /info": CORE_INFO, "GET /": CORE_ROOT, "GET /health": {"status": "healthy"}}
    adapter, facts = await discover(await serve({**routes, "POST /v1/chat/completions": chat}), client)
    assert adapter.name == "sagellm"
    assert (facts.kind, facts.version, facts.slots, facts.models) == (
        "sagellm",
        "0.1.0",
        32,
        (ModelFacts("gpt2"),),
    )
    assert await adapter.healthy()
    assert (await ask(adapter, body=b'{"as": "it is"}')).body == b'{"as": "it is"}'
    assert await adapter.probe() == facts


async def test_a_sagellm_engine_that_tells_its_models(serve: Serve, client: EngineClient) -> None:
    info = {"engine_id": "e", "model": "a", "models": ["a", "b"], "max_concurrent_requests": 3}
    adapter, facts = await discover(await serve({"GET /info": info}), client)
    assert adapter.name == "sagellm"
    assert (facts.slots, facts.models) == (3, (ModelFacts("a"), ModelFacts("b")))


async def test_an_openai_list_of_models_decides(serve: Serve, client: EngineClient) -> None:
    adapter, _ = await discover(await serve({"GET /v1/models": MODELS, "GET /info": CORE_INFO}), client)
    assert adapter.name == "openai"


async def test_a_wire_that_is_given_is_not_looked_for(serve: Serve, client: EngineClient) -> None:
    url = await serve({"GET /v1/models": MODELS, "GET /health": 200})
    assert (await discover(url, client, wire="openai"))[0].name == "openai"
    adapter, facts = await discover(url, client, wire="sagellm")
    assert (adapter.name, facts.models) == ("sagellm", ())


async def test_another_systems_gateway_is_an_engine_where_the_wire_is_given(serve: Serve, client: EngineClient) -> None:
    adapter, facts = await discover(await serve({"GET /v1/models": GATEWAY}), client, wire="openai")
    assert (adapter.name, facts.kind, [model.name for model in facts.models]) == ("openai", "openai", ["m"])


async def test_a_gateway_that_was_registered_is_no_engine_either(serve: Serve, client: EngineClient) -> None:
    url = await serve({"GET /v1/models": GATEWAY, "GET /health": 200})
    with pytest.raises(EngineUnreachable, match="is a gateway of sagellm-control"):
        await discover_registered(url, client)


def test_the_setting_knows_every_wire_and_each_adapter_its_own() -> None:
    assert get_args(WorkerSettings.model_fields["wire"].annotation) == WIRES
    assert {wire: adapter.name for wire, adapter in ADAPTERS.items()} == {wire: wire for wire in ADAPTERS}


async def test_the_key_is_sent(serve: Serve, client: EngineClient) -> None:
    async def models(request: web.Request) -> web.Response:
        known = request.headers.get("Authorization") == "Bearer sk-1"
        return web.json_response(MODELS if known else {}, status=200 if known else 401)

    url = await serve({"GET /v1/models": models})
    assert (await discover(url, client, api_key="sk-1"))[1].kind == "vllm"
    with pytest.raises(ValueError, match=f"engine {url} wants an API key"):
        await discover(url, client)


@pytest.mark.parametrize(
    ("routes", "wire", "error", "text"),
    [
        ({}, "auto", ValueError, "neither OpenAI's wire"),
        ({"GET /info": {"x": 1}}, "auto", ValueError, r"set worker\.wire \(SAGELLM_CONTROL_WORKER_WIRE\) to openai or"),
        ({"GET /v1/models": "<html>"}, "auto", ValueError, "no list of models"),
        ({"GET /v1/models": [1, 2]}, "auto", ValueError, "no list of models"),
        (
            {"GET /v1/models": GATEWAY},
            "auto",
            ValueError,
            "is a gateway of sagellm-control: name the engines behind it",
        ),
        ({"GET /v1/models": GATEWAY | {"data": []}}, "auto", ValueError, "is a gateway of sagellm-control"),
        ({"GET /info": 503}, "auto", EngineUnreachable, "not ready"),
        ({"GET /v1/models": 503}, "auto", EngineUnreachable, "not ready"),
        ({"GET /v1/models": 404}, "openai", ValueError, "no list of models"),
        ({}, "sagellm", ValueError, "no sageLLM engine"),
        ({"GET /info": 503}, "sagellm", EngineUnreachable, "not ready"),
        ({}, "vllm", ValueError, "wire 'vllm' is none of auto, openai, sagellm"),
    ],
)
async def test_no_engine(
    serve: Serve,
    client: EngineClient,
    routes: dict[str, object],
    wire: str,
    error: type[Exception],
    text: str,
) -> None:
    with pytest.raises(error, match=text):
        await discover(await serve(routes), client, wire=wire)


@pytest.mark.parametrize("wire", WIRES)
async def test_nobody_listens(client: EngineClient, unused_tcp_port: int, wire: str) -> None:
    with pytest.raises(EngineUnreachable, match="cannot be reached"):
        await discover(f"http://127.0.0.1:{unused_tcp_port}", client, wire=wire)


async def test_a_port_that_speaks_something_else(talk: StartTalk, client: EngineClient) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR unknown command\r\n")
        await reader.readuntil(b"\r\n\r\n")

    with pytest.raises(EngineUnreachable, match="engine http://127"):
        await discover(await talk(handler), client)


async def test_an_endpoint_that_hangs_up_does_not_matter(talk: StartTalk, client: EngineClient) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, _ = await read_request(reader)
        if "/v1/models" in line:
            body = b'{"data": [{"id": "m", "owned_by": "vllm"}]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    _, facts = await discover(await talk(handler), client)
    assert (facts.kind, [model.name for model in facts.models]) == ("vllm", ["m"])
