"""What the OpenAI wire refuses: each error has the right status and names the field."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest

from .conftest import StartEngine, chat

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
VECTORS = "/v1/embeddings"

MISSING: dict[str, Any] = {"model": "simulated-1"}


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    (CHAT, MISSING, 400, "messages"),
    (CHAT, {**MISSING, "messages": []}, 400, "messages"),
    (CHAT, {**MISSING, "messages": ["hi"]}, 400, "messages[0]"),
    (CHAT, {**MISSING, "messages": [{"content": "hi"}]}, 400, "messages[0].role"),
    (CHAT, {**MISSING, "messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": "hi"}]}, 400, "model"),
    (CHAT, chat(model="gpt-x"), 404, "model"),
    (CHAT, chat(max_tokens=0), 400, "max_tokens"),
    (CHAT, chat(max_tokens="5"), 400, "max_tokens"),
    (CHAT, chat(max_completion_tokens=True), 400, "max_completion_tokens"),
    (CHAT, chat(n=0), 400, "n"),
    (CHAT, chat(n=129), 400, "n"),
    (CHAT, chat(stream="yes"), 400, "stream"),
    (CHAT, chat(stream_options=[]), 400, "stream_options"),
    (CHAT, chat(seed=1.5), 400, "seed"),
    (TEXT, MISSING, 400, "prompt"),
    (TEXT, {**MISSING, "prompt": []}, 400, "prompt"),
    (TEXT, {**MISSING, "prompt": ["a", 1]}, 400, "prompt"),
    (TEXT, {**MISSING, "prompt": [[]]}, 400, "prompt"),
    (VECTORS, MISSING, 400, "input"),
    (VECTORS, {**MISSING, "input": "a", "dimensions": 0}, 400, "dimensions"),
    (VECTORS, {**MISSING, "input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
]


@pytest.mark.parametrize(("path", "body", "status", "param"), REFUSED)
async def test_errors_name_the_field(
    start_engine: StartEngine, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    engine = await start_engine()
    got, answer = await engine.post(path, body)
    assert (got, answer["error"]["param"]) == (status, param)
    assert param in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"
    state = await engine.get("/simulated/state")
    assert (state["refused"], state["running"]) == (1, 0)


async def test_unknown_model_lists_the_known_ones(start_engine: StartEngine) -> None:
    engine = await start_engine(models=["red", "blue"])
    _, answer = await engine.post(CHAT, chat(model="green"))
    assert answer["error"]["message"] == "The model 'green' does not exist; this engine serves: red, blue"
    assert answer["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b"\xff\xfe", b'"text"'])
async def test_body_that_is_no_json_object(start_engine: StartEngine, raw: bytes) -> None:
    engine = await start_engine()
    async with engine.session.post(engine.url + CHAT, data=raw) as response:
        assert response.status == 400
        assert "JSON" in (await response.json())["error"]["message"]


async def test_body_over_the_limit(start_engine: StartEngine) -> None:
    engine = await start_engine(max_body_mb=1)
    body = io.BytesIO(orjson.dumps(chat("x" * 1_100_000)))
    async with engine.session.post(engine.url + CHAT, data=body) as response:
        status, answer = response.status, await response.json()
    assert status == 413
    assert "max_body_mb = 1" in answer["error"]["message"]


async def test_unknown_path(start_engine: StartEngine) -> None:
    engine = await start_engine()
    status, answer = await engine.post("/v1/completions/stream", {})
    assert (status, answer["error"]["code"]) == (404, "not_found")


async def test_api_key(start_engine: StartEngine) -> None:
    engine = await start_engine(api_key="secret")
    assert (await engine.post(CHAT, chat()))[0] == 401
    assert (await engine.post(CHAT, chat(), Authorization="Bearer wrong"))[0] == 401
    assert (await engine.post(CHAT, chat(), Authorization="Bearer secret"))[0] == 200
    async with engine.session.get(engine.url + "/v1/models") as response:
        assert response.status == 401
    assert await engine.get("/health") == {"status": "ok"}
