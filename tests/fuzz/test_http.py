"""Whatever is said to the gateway, it answers in OpenAI's form or closes the connection, and goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagellm_control.gateway.api_keys import hash_key
from sagellm_control.store.settings import RedisSettings

from ..flow.asking import CHAT_PATH, MODEL, chat, expected_text
from ..flow.conftest import start_engine as start_engine
from ..flow.in_process import GATEWAY, InProcessSystem, in_process_system
from .raw_http import PATIENCE_S, Answer, say
from .requests import METHODS, PATHS, broken_requests, inferences, requests

CLEAN = (503, 504)
"""What a server may say of itself: not now, not in time."""
BOUNDED = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


KEY = "sk-fuzz"


GATEWAY_3S = GATEWAY.model_copy(update={"request_timeout_s": 3.0})


@pytest.fixture
async def system(redis_settings: RedisSettings, start_engine: Any) -> AsyncGenerator[InProcessSystem, None]:
    """A system with one request that is known to it."""
    async with in_process_system(redis_settings, [(await start_engine()).url], gateway=GATEWAY_3S) as system:
        headers = {"X-Request-ID": "known"}
        async with system.session.post(system.url + CHAT_PATH, json=chat(max_tokens=2), headers=headers) as response:
            assert response.status == 200
        yield system
        await still_serves(system)


@pytest.fixture
async def guarded(
    redis_settings: RedisSettings, start_engine: Any, tmp_path: Path
) -> AsyncGenerator[InProcessSystem, None]:
    """A system that asks for ``KEY``."""
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[keys]]\nsha256 = "{hash_key(KEY)}"\ntenant = "fuzz"\n')
    gateway = GATEWAY_3S.model_copy(update={"api_keys": keys})
    async with in_process_system(redis_settings, [(await start_engine()).url], gateway=gateway) as system:
        system.session.headers["Authorization"] = f"Bearer {KEY}"
        yield system
        await still_serves(system)


def check(answer: Answer, words: bytes) -> None:
    """No failure of the gateway's own; and an error says what is wrong as OpenAI's clients expect it."""
    said = f"{answer.status} {answer.body[:300]!r} to {words[:600]!r}"
    assert 200 <= answer.status < 500 or answer.status in CLEAN, said
    if answer.status >= 400 and answer.body:
        assert answer.is_json, said
        error = json.loads(answer.body)["error"]
        assert isinstance(error["message"], str), said
        assert isinstance(error["type"], str), said


async def still_serves(system: InProcessSystem) -> None:
    async with system.session.post(system.url + CHAT_PATH, json=chat("still there", max_tokens=3)) as response:
        assert response.status == 200
        answer = await response.json()
        assert answer["choices"][0]["message"]["content"] == expected_text("still there", 3)


@BOUNDED
@given(words=requests())
async def test_requests_that_nobody_would_send(system: InProcessSystem, words: bytes) -> None:
    check(await say(system.url, words), words)


@BOUNDED
@given(words=inferences(KEY))
async def test_inferences_that_nobody_would_ask_for(guarded: InProcessSystem, words: bytes) -> None:
    check(await say(guarded.url, words), words)


@settings(BOUNDED, max_examples=100)
@given(words=broken_requests())
async def test_bytes_that_are_no_request(system: InProcessSystem, words: bytes) -> None:
    answer = await say(system.url, words, patience_s=PATIENCE_S)
    if answer.status:
        check(answer, words)


@pytest.mark.parametrize(
    ("head", "status", "says"),
    [
        (f"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: {'secret' * 2000}\r\n", 431, "8190 bytes"),
        (f"GET /{'x' * 9000} HTTP/1.1\r\nHost: x\r\n", 431, "8190 bytes"),
        ("GET /health HTTP/1.1\r\nHost: x\r\n" + "".join(f"X-{n}: 1\r\n" for n in range(200)), 431, "128 headers"),
        ("GET /health HTTP/1.1\r\nHost: x\r\nno header\r\n", 400, "no HTTP request"),
        ("\x16\x03\x01 hello TLS\r\n", 400, "no HTTP request"),
    ],
    ids=["header", "address", "headers", "line", "tls"],
)
async def test_what_no_endpoint_sees(
    system: InProcessSystem, caplog: pytest.LogCaptureFixture, head: str, status: int, says: str
) -> None:
    answer = await say(system.url, f"{head}\r\n".encode("latin-1"))
    check(answer, head.encode())
    assert answer.status == status
    assert says in json.loads(answer.body)["error"]["message"]
    assert "x-request-id: " in answer.head.lower()
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
    assert "secret" not in caplog.text + answer.body.decode()


@pytest.mark.parametrize("path", PATHS)
async def test_every_endpoint_with_every_method(system: InProcessSystem, path: str) -> None:
    for method in METHODS:
        words = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        if method != "CONNECT":
            check(await say(system.url, words), words)


@pytest.mark.parametrize("expected", [b"100-continue", b"tea", b"\x80\xff"])
@pytest.mark.parametrize("path", PATHS)
async def test_expectations(system: InProcessSystem, path: str, expected: bytes) -> None:
    method = "POST" if path in (*PATHS[:3], "/admin/set_policy") else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\nExpect: ".encode()
    answer = await say(system.url, head + expected + b"\r\n\r\n{}")
    if expected == b"100-continue":
        assert answer.status == 100
        assert answer.body.startswith(b"HTTP/1.1 ")
    else:
        check(answer, head + expected)
        assert answer.status == 417


@settings(BOUNDED, max_examples=100)
@given(path=st.sampled_from(PATHS[:3]), depth=st.integers(1, 200_000), kind=st.sampled_from("[{"))
async def test_nesting_of_any_depth(system: InProcessSystem, path: str, depth: int, kind: str) -> None:
    opened, closed = ("[", "]") if kind == "[" else ('{"a":', "}")
    deep = opened * depth + "1" + closed * depth
    body = f'{{"model":"{MODEL}","messages":{deep},"prompt":{deep},"input":{deep},"max_tokens":1}}'.encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    check(await say(system.url, head.encode() + body), body)
