"""sageLLM's own wire, checked with sageLLM's own message types."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from pydantic import TypeAdapter

from sagellm_control.simulated_engine import answer_tokens, embedding
from sagellm_control.simulated_engine.answers import token_id

from .conftest import StartEngine

# Published as bytecode without type stubs.
protocol: Any = importlib.import_module("sagellm_protocol")

ASK = {"request_id": "r1", "trace_id": "t1", "model": "simulated-1", "prompt": "tell me", "max_tokens": 6}
TOKENS = answer_tokens("tell me", 6)
IDS = [token_id(token) for token in TOKENS]


async def test_whole_answer_is_a_protocol_response(start_engine: StartEngine) -> None:
    engine = await start_engine(wire="sagellm")
    status, answer = await engine.post("/v1/completions", {**ASK, "stream": False})
    assert status == 200
    response = protocol.Response.model_validate(answer)
    assert (response.request_id, response.trace_id, response.finish_reason) == ("r1", "t1", "length")
    assert response.output_text == "".join(TOKENS)
    assert response.output_tokens == IDS
    assert response.error is None
    assert answer["prompt_tokens"] == 1


async def test_stream_has_start_deltas_and_end(start_engine: StartEngine) -> None:
    engine = await start_engine(wire="sagellm", engine_id="core-7")
    raw = await engine.events("/v1/completions/stream", {**ASK, "stream": True})
    adapter: TypeAdapter[Any] = TypeAdapter(protocol.StreamEvent)
    start, *deltas, end = [adapter.validate_python(event) for event in raw]
    assert (start.event, start.engine_id, start.prompt_tokens) == ("start", "core-7", 1)
    assert [delta.content for delta in deltas] == TOKENS
    assert [delta.content_tokens for delta in deltas] == [[number] for number in IDS]
    assert (end.event, end.content, end.output_tokens) == ("end", "".join(TOKENS), IDS)
    assert end.finish_reason == "length"
    assert {(event["request_id"], event["trace_id"]) for event in raw} == {("r1", "t1")}


async def test_metrics_tell_the_simulated_times(start_engine: StartEngine) -> None:
    engine = await start_engine(wire="sagellm", tpot_ms=2)
    _, answer = await engine.post("/v1/completions", ASK)
    metrics = answer["metrics"]
    assert metrics["tpot_ms"] == metrics["tbt_ms"] > 0
    assert metrics["throughput_tps"] > 0
    assert metrics["error_rate"] == 0


@pytest.mark.parametrize("model", [None, "", "default", "simulated-1"])
async def test_embeddings_of_texts(start_engine: StartEngine, model: str | None) -> None:
    engine = await start_engine(wire="sagellm")
    body = {"request_id": "emb-1", "trace_id": "t", "model": model, "texts": ["a", "b"]}
    status, answer = await engine.post("/v1/completions", body)
    assert status == 200
    assert answer["embeddings"] == [embedding("a"), embedding("b")]


async def test_messages_take_the_place_of_an_empty_prompt(start_engine: StartEngine) -> None:
    engine = await start_engine(wire="sagellm")
    messages = [{"role": "user", "content": "hello you"}]
    _, answer = await engine.post("/v1/completions", {**ASK, "prompt": "", "messages": messages, "n": 4})
    assert answer["output_text"] == "".join(answer_tokens("hello you", 6))


@pytest.mark.parametrize(
    ("changes", "status", "named"),
    [
        ({"request_id": None}, 400, "request_id"),
        ({"prompt": None}, 400, "prompt"),
        ({"model": "other"}, 404, "simulated-1"),
        ({"max_tokens": 0}, 400, "max_tokens"),
    ],
)
async def test_errors(start_engine: StartEngine, changes: dict[str, Any], status: int, named: str) -> None:
    engine = await start_engine(wire="sagellm")
    got, answer = await engine.post("/v1/completions", ASK | changes)
    assert got == status
    error = protocol.Error.model_validate(answer["error"])
    assert error.code.value == "invalid_argument"
    assert named in error.message
    assert error.retryable is False


@pytest.mark.parametrize(
    ("asked", "code"), [(429, "resource_exhausted"), (504, "deadline_exceeded"), (503, "unavailable")]
)
async def test_injected_failures_have_the_protocols_codes(start_engine: StartEngine, asked: int, code: str) -> None:
    engine = await start_engine(wire="sagellm")
    status, answer = await engine.post("/v1/completions", ASK, X_Simulate_Fault=f"status={asked}")
    assert (status, answer["error"]["code"]) == (asked, code)
    assert answer["error"]["retryable"] is True


async def test_only_this_wire_is_spoken(start_engine: StartEngine) -> None:
    engine = await start_engine(wire="sagellm", engine_id="core-7", slots=5, models=["a", "b"])
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/models", "/props"):
        assert (await engine.post(path, {}))[0] == 404
    info = await engine.get("/info")
    assert info == {"engine_id": "core-7", "model": "a", "models": ["a", "b"], "max_concurrent_requests": 5}
    assert await engine.get("/health") == {"status": "ok"}
