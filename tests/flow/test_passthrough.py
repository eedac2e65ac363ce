"""The body reaches the engine byte for byte, and the engine's answer reaches the client byte for byte."""

from __future__ import annotations

import io
import re

import orjson
import pytest

from .asking import CHAT_PATH
from .conftest import StartEcho, StartSystem
from .echo_engine import EVENTS, EchoEngine
from .in_process import InProcessSystem

TOOLS = (
    b'"tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":'
    b'{"town":{"type":"string"}}}}}],"tool_choice":"auto"'
)
IMAGE = (
    b'{"role":"user","content":[{"type":"text","text":"what is this?"},'
    b'{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo=","detail":"low"}}]}'
)
USER = b'{"role":"user","content":"hi"}'


def _body(fields: bytes, message: bytes = USER) -> bytes:
    return b'{"model":"echo-1","messages":[' + message + b"]," + fields + b"}"


BODIES = {
    "tools": _body(TOOLS),
    "tool result": _body(
        b'"parallel_tool_calls":false',
        b'{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":'
        b'{"name":"weather","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c1","content":"rain"}',
    ),
    "image": _body(b'"max_tokens":7', IMAGE),
    "response_format": _body(b'"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{}}}'),
    "logprobs": _body(b'"logprobs":true,"top_logprobs":5'),
    "n": _body(b'"n":4,"seed":-1'),
    "stream_options": _body(b'"stream":true,"stream_options":{"include_usage":true}'),
    "unknown fields": _body(b'"repetition_penalty":1.0500,"guided_regex":"a*","vendor":{"deep":[1,[2,{"x":null}]]}'),
    "unicode": _body(
        b'"user":"J\xc3\xbcrgen"', '{"role":"user","content":"naïve 日本語 🜚 \\u00e9 \\ud83d\\ude00"}'.encode()
    ),
    "odd whitespace": b'\n {\t"messages" :[ ' + USER + b' ],\r\n "model":"echo-1" , "temperature":1E+0 }\n\n',
    "a field twice": _body(b'"temperature":0.1,"temperature":0.2'),
    "numbers that floats cannot hold": _body(b'"logit_bias":{"1":1.00000000000000000001},"seed":12345678901234567890'),
}

ANSWERS = {
    "JSON": (b'{"id" : "x", "choices":[ ],\n "vendor": 1.50}', "application/json"),
    "JSON with a charset": ('{"text":"ü"}'.encode(), "application/json; charset=utf-8"),
    "JSON that says it is not": (b' {"a":1}\r\n', "text/html"),
}


@pytest.fixture
async def echo(start_echo: StartEcho) -> EchoEngine:
    return await start_echo()


@pytest.fixture
async def system(echo: EchoEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(echo)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_the_body_reaches_the_engine_unchanged(echo: EchoEngine, system: InProcessSystem, body: bytes) -> None:
    async with system.session.post(system.url + CHAT_PATH, data=body) as response:
        assert response.status == 200, await response.text()
    [reached] = echo.reached
    assert reached.path == CHAT_PATH
    assert reached.body == body
    assert reached.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", b'{"model":"echo-1","prompt":["a",  "b"],"suffix":"!"}'),
        ("/v1/completions", b'{"model":"echo-1","prompt":[1,2,3]}'),
        ("/v1/embeddings", b'{"model":"echo-1","input":[[1,2],[3]] ,"dimensions":3}'),
    ],
)
async def test_each_endpoint_reaches_its_own_path(
    echo: EchoEngine, system: InProcessSystem, path: str, body: bytes
) -> None:
    async with system.session.post(system.url + path, data=body) as response:
        assert response.status == 200, await response.text()
    assert [(reached.path, reached.body) for reached in echo.reached] == [(path, body)]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_large_body(echo: EchoEngine, system: InProcessSystem, stream: bool) -> None:
    # Over the size up to which a body travels along with its assignment.
    body = orjson.dumps(
        {"model": "echo-1", "stream": stream, "messages": [{"role": "user", "content": "0123456789abcdef" * 65_536}]}
    )
    async with system.session.post(system.url + CHAT_PATH, data=io.BytesIO(body)) as response:
        assert response.status == 200, await response.text()
    assert echo.reached[0].body == body


@pytest.mark.parametrize(("body", "content_type"), ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("stream", [False, True])
async def test_the_answer_reaches_the_client_unchanged(
    echo: EchoEngine, system: InProcessSystem, body: bytes, content_type: str, stream: bool
) -> None:
    # An engine may answer a request for a stream with a plain body.
    echo.answer(body, content_type=content_type)
    asked = _body(b'"stream":true' if stream else b'"stream":false')
    async with system.session.post(system.url + CHAT_PATH, data=asked) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == content_type
        assert await response.read() == body


@pytest.mark.parametrize("status", [201, 202])
async def test_any_success_keeps_its_status(echo: EchoEngine, system: InProcessSystem, status: int) -> None:
    echo.answer(b'{"ok":1}', status=status)
    async with system.session.post(system.url + CHAT_PATH, data=_body(b'"n":1')) as response:
        assert (response.status, await response.read()) == (status, b'{"ok":1}')


async def test_a_large_answer(echo: EchoEngine, system: InProcessSystem) -> None:
    answer = orjson.dumps({"data": "vector" * 700_000})
    echo.answer(answer)
    async with system.session.post(system.url + "/v1/embeddings", data=b'{"model":"echo-1","input":"x"}') as response:
        assert await response.read() == answer


STREAM = (
    b": a comment first\n\n"
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b'event: progress\nid: 7\nretry: 100\ndata: {"percent": 3}\n\n'
    b'data: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n'
    b'data: {"two":\ndata: "lines"}\n\n'
    b": ping\n\n"
    b'data:{"no": 0}\n\n' + 'data: {"choices":[{"delta":{"content":"日本語 🜚"}}]}\n\n'.encode() + b"data: [DONE]\n\n"
)


COMMENT = re.compile(rb"^: .*\n\n", re.MULTILINE)


@pytest.mark.parametrize("size", [1, 3, 17, 64, len(STREAM)])
async def test_the_stream_reaches_the_client_unchanged(echo: EchoEngine, system: InProcessSystem, size: int) -> None:
    echo.stream([STREAM[i : i + size] for i in range(0, len(STREAM), size)])
    async with system.session.post(system.url + CHAT_PATH, data=_body(b'"stream":true')) as response:
        assert response.status == 200
        assert response.content_type == EVENTS
        assert response.headers["Cache-Control"] == "no-cache"
        # Comments by themselves tell nothing of the answer; others stay where they are.
        assert COMMENT.sub(b"", await response.read()) == COMMENT.sub(b"", STREAM)


async def test_a_long_stream(echo: EchoEngine, system: InProcessSystem) -> None:
    # More than may wait for Redis at once: the engine is read no faster than Redis writes.
    pieces = [b'data: {"%04d":"' % i + b"x" * 30_000 + b'"}\n\n' for i in range(100)]
    echo.stream([*pieces, b"data: [DONE]\n\n"])
    async with system.session.post(system.url + CHAT_PATH, data=_body(b'"stream":true')) as response:
        assert await response.read() == b"".join(pieces) + b"data: [DONE]\n\n"


async def test_a_stream_that_was_not_asked_for(echo: EchoEngine, system: InProcessSystem) -> None:
    echo.stream([b'data: {"a":1}\n\n', b"data: [DONE]\n\n"])
    async with system.session.post(system.url + CHAT_PATH, data=_body(b'"n":1')) as response:
        assert response.content_type == EVENTS
        assert await response.read() == b'data: {"a":1}\n\ndata: [DONE]\n\n'


async def test_ids_and_trace_context_reach_the_engine(echo: EchoEngine, system: InProcessSystem) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {
        "X-Request-ID": "req-7",
        "X-Trace-ID": "trace-7",
        "traceparent": traceparent,
        "tracestate": "rojo=00f067aa0ba902b7,congo=t6 1",
    }
    async with system.session.post(system.url + CHAT_PATH, data=_body(b'"n":1'), headers=headers) as response:
        assert response.status == 200
    sent = echo.reached[0].headers
    assert {name: sent[name] for name in headers} == headers


async def test_a_clients_key_does_not_reach_the_engine(echo: EchoEngine, system: InProcessSystem) -> None:
    headers = {"Authorization": "Bearer sk-secret", "Cookie": "a=b"}
    async with system.session.post(system.url + CHAT_PATH, data=_body(b'"n":1'), headers=headers) as response:
        assert response.status == 200
    assert not {"Authorization", "Cookie"} & set(echo.reached[0].headers)
