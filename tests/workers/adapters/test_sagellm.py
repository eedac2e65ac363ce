"""The sageLLM adapter against fake engines: whole answers, streams, embeddings, and engines that break off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from aiohttp import web

from sagellm_workers.adapters.base import EngineBroken
from sagellm_workers.adapters.sagellm import SageLLMAdapter
from sagellm_workers.adapters.sagellm_reply import Head
from sagellm_workers.adapters.sagellm_stream import StreamTranslator
from sagellm_workers.http.transport import EngineClient

from ..conftest import EVENT_STREAM_HEAD, Serve, StartTalk, ask, chunked, read_request

CHAT_BODY = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
IDS = {"request_id": "req-1", "trace_id": "trace-1", "engine_id": "e-1"}
START = {"event": "start", **IDS, "prompt_tokens": 4}
END = {"event": "end", **IDS, "content": "Hello", "output_tokens": [1, 2], "finish_reason": "stop", "metrics": {}}


def delta(content: str, tokens: Sequence[int] = (1,)) -> dict[str, Any]:
    return {"event": "delta", **IDS, "content": content, "content_tokens": list(tokens)}


def streaming(*events: object, done: bool = True) -> Callable[[web.Request], Any]:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert orjson.loads(await request.read())["stream"] is True
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            data = event if isinstance(event, bytes) else orjson.dumps(event)
            await response.write(b"data: " + data + b"\n\n")
        if done:
            await response.write(b"data: [DONE]\n\n")
        return response

    return handler


async def stream(serve: Serve, client: EngineClient, *events: object, **changes: Any) -> list[Any]:
    url = await serve({"POST /v1/completions/stream": streaming(*events)})
    fields = {"body": CHAT_BODY} | changes
    answer = await ask(SageLLMAdapter(url, client), **fields)
    assert (answer.status, answer.content_type) == (200, "text/event-stream")
    return answer.events


def choices(events: list[Any]) -> list[Any]:
    return [event["choices"][0] for event in events if event != "[DONE]" and event["choices"]]


async def test_a_chat_stream(serve: Serve, client: EngineClient) -> None:
    events = await stream(serve, client, START, delta("Hel"), {"event": "news"}, 7, delta("lo"), END, delta("!"))
    assert events.pop() == "[DONE]"
    assert {(event["id"], event["object"], event["model"]) for event in events} == {
        ("chatcmpl-req-1", "chat.completion.chunk", "m")
    }
    assert [(choice["delta"], choice["finish_reason"]) for choice in choices(events)] == [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "Hel"}, None),
        ({"content": "lo"}, None),
        ({}, "stop"),
    ]
    assert events[-1]["sagellm"] == {"engine_id": "e-1", "metrics": {}, "output_tokens": [1, 2]}


async def test_a_completion_stream_with_usage(serve: Serve, client: EngineClient) -> None:
    body = orjson.dumps({"model": "m", "prompt": "Hi", "stream_options": {"include_usage": True}})
    end = {**END, "output_tokens": None, "finish_reason": "length"}
    events = await stream(serve, client, START, delta("Hel", [1, 2]), delta("lo"), end, kind="completion", body=body)
    assert events.pop() == "[DONE]"
    assert {event["object"] for event in events} == {"text_completion"}
    assert [(choice["text"], choice["finish_reason"]) for choice in choices(events)] == [
        ("Hel", None),
        ("lo", None),
        ("", "length"),
    ]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([START, END], "Hello"),
        ([END], "Hello"),
        ([START, delta("Hel"), END], "Hello"),
        ([START, delta("Hello"), {**END, "content": ""}], "Hello"),
        ([START, delta("Hello"), {**END, "content": "Bye"}], "Hello"),
        ([delta("Hello"), {**END, "content": None}], "Hello"),
        ([START, delta(""), {"event": "delta", "content": 7}, {"event": "end"}], ""),
    ],
)
async def test_what_the_deltas_left_out_comes_at_the_end(
    serve: Serve, client: EngineClient, events: list[Any], text: str
) -> None:
    told = choices(await stream(serve, client, *events))
    assert "".join(choice["delta"].get("content", "") for choice in told) == text
    assert told[0]["delta"]["role"] == "assistant"
    assert told[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ({"event": "end", "finish_reason": "error", "error": {"code": "unavailable", "message": "x"}}, "x"),
        ({"event": "end", "finish_reason": "stop", "error": {"message": "y"}}, "y"),
        ({"event": "end", "finish_reason": "error"}, "the engine failed and did not say why"),
        ({"event": "error", "error": "out of memory"}, "out of memory"),
        ({"event": "error"}, "unknown"),
    ],
)
async def test_a_stream_that_ends_with_an_error(
    serve: Serve, client: EngineClient, end: dict[str, Any], message: str
) -> None:
    events = await stream(serve, client, START, delta("Hel"), end)
    assert events[-1] == "[DONE]"
    assert events[-2]["error"]["message"] == message
    assert all(choice["finish_reason"] is None for choice in choices(events[:-2]))


@pytest.mark.parametrize("events", [[], [START, delta("Hel")], [{"choices": [{"delta": {}}]}]])
async def test_a_stream_without_an_end_is_broken(serve: Serve, client: EngineClient, events: list[Any]) -> None:
    with pytest.raises(EngineBroken, match="without an end event"):
        await stream(serve, client, *events)


@pytest.mark.parametrize(
    ("events", "pieces"),
    [
        ([START, b"ping", delta("Hel"), delta("lo"), END], ["Hello"]),
        ([START, delta("Hel"), b"{oops", delta("lo"), END], ["Hel", "lo"]),
        ([START, delta("He"), b'{"event": "delta", "content": "l', delta("lo"), END], ["He", "llo"]),
        ([START, delta("Hello"), b"{oops", END], ["Hello"]),
    ],
    ids=["noise", "more noise", "a lost piece", "nothing is lost"],
)
async def test_an_event_that_is_no_json_is_skipped_and_what_it_may_have_said_comes_at_the_end(
    serve: Serve, client: EngineClient, caplog: pytest.LogCaptureFixture, events: list[Any], pieces: list[str]
) -> None:
    told = choices(await stream(serve, client, *events))
    assert [text for choice in told if (text := choice["delta"].get("content"))] == pieces
    assert told[-1]["finish_reason"] == "stop"
    assert "an event that is no JSON is skipped" in caplog.text


@pytest.mark.parametrize("content", ["", None, "lo", "Bye"])
async def test_an_event_that_is_no_json_is_broken_if_the_end_does_not_tell_the_whole_answer(
    serve: Serve, client: EngineClient, content: str | None
) -> None:
    with pytest.raises(EngineBroken, match="no JSON"):
        await stream(serve, client, START, delta("Hel"), b"{oops", delta("lo"), {**END, "content": content})


async def test_an_engine_that_never_closes_does_not_hold_up_the_end(talk: StartTalk, client: EngineClient) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(EVENT_STREAM_HEAD + chunked(b"data: " + orjson.dumps(END) + b"\n\n", end=False))
        await reader.read()

    async with asyncio.timeout(20):
        answer = await ask(SageLLMAdapter(await talk(handler), client), body=CHAT_BODY)
    assert answer.events[-1] == "[DONE]"


async def test_after_the_end_the_connection_is_kept(talk: StartTalk, client: EngineClient) -> None:
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_request(reader)
            end = b"data: " + orjson.dumps(END) + b"\n\n"
            writer.write(EVENT_STREAM_HEAD + chunked(end, end=False))
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(chunked(b"data: [DONE]\n\n"))

    adapter = SageLLMAdapter(await talk(handler), client)
    for _ in range(3):
        await ask(adapter, body=CHAT_BODY)
    assert connections == 1


def test_events_after_the_end_say_nothing() -> None:
    translator = StreamTranslator(Head("chat", "req-1", "m", 0), include_usage=False)
    assert translator.feed(END)
    assert translator.done
    assert translator.feed(delta("!")) == b""


@pytest.mark.parametrize("kind", ["chat", "completion"])
async def test_a_whole_answer(serve: Serve, client: EngineClient, kind: str) -> None:
    seen: list[dict[str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(orjson.loads(await request.read()))
        return web.json_response({"output_text": "Hello", "output_tokens": [1], "finish_reason": "stop"})

    body = orjson.dumps({"model": "m", "prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}]})
    url = await serve({"POST /v1/completions": handler})
    answer = await ask(SageLLMAdapter(url + "/v1", client), kind=kind, stream=False, body=body)
    assert (answer.status, answer.content_type) == (200, "application/json")
    choice = answer.json["choices"][0]
    assert (choice["message"]["content"] if kind == "chat" else choice["text"]) == "Hello"
    assert (seen[0]["request_id"], seen[0]["stream"]) == ("req-1", False)


async def test_a_stream_that_is_answered_whole(serve: Serve, client: EngineClient) -> None:
    url = await serve({"POST /v1/completions/stream": {"output_text": "Hello", "output_tokens": [1]}})
    answer = await ask(SageLLMAdapter(url, client), body=CHAT_BODY)
    assert answer.content_type == "application/json"
    assert answer.json["choices"][0]["message"]["content"] == "Hello"


@pytest.mark.parametrize(("texts", "count"), [("a", 1), (["a", "b"], 2)])
async def test_embeddings(serve: Serve, client: EngineClient, texts: object, count: int) -> None:
    async def handler(request: web.Request) -> web.Response:
        fields = orjson.loads(await request.read())
        return web.json_response({"embeddings": [[1.0]] * len(fields["texts"])})

    body = orjson.dumps({"model": "m", "input": texts, "encoding_format": "float"})
    adapter = SageLLMAdapter(await serve({"POST /v1/completions": handler}), client)
    answer = await ask(adapter, kind="embedding", stream=False, body=body)
    assert [row["embedding"] for row in answer.json["data"]] == [[1.0]] * count


async def test_a_reply_that_cannot_be_read(serve: Serve, client: EngineClient) -> None:
    adapter = SageLLMAdapter(await serve({"POST /v1/completions": "<html>"}), client)
    with pytest.raises(EngineBroken, match="no JSON"):
        await ask(adapter, stream=False, body=CHAT_BODY)


@pytest.mark.parametrize("texts", [["a"], ["a", "b", "c"]])
async def test_vectors_that_are_not_as_many_as_the_texts(serve: Serve, client: EngineClient, texts: list[str]) -> None:
    adapter = SageLLMAdapter(await serve({"POST /v1/completions": {"embeddings": [[1.0], [2.0]]}}), client)
    with pytest.raises(EngineBroken, match=f"2 for {len(texts)} texts"):
        await ask(adapter, kind="embedding", stream=False, body=orjson.dumps({"model": "m", "input": texts}))


async def test_a_refusal_of_the_engine(serve: Serve, client: EngineClient) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"detail": "Engine not running"}, status=503, headers={"Retry-After": "2"})

    adapter = SageLLMAdapter(await serve({"POST /v1/completions/stream": handler}), client)
    answer = await ask(adapter, body=CHAT_BODY)
    assert (answer.status, answer.content_type, answer.retry_after_s) == (503, "application/json", 2.0)
    assert answer.json["error"]["message"] == "Engine not running"


async def test_what_cannot_be_said_is_refused_without_the_engine(client: EngineClient) -> None:
    adapter = SageLLMAdapter("http://127.0.0.1:1", client)
    answer = await ask(adapter, kind="completion", body=b'{"prompt": [1, 2]}')
    assert answer.status == 400
    assert answer.json["error"] == {
        "message": "prompt must be one text: this engine takes neither several nor tokens",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": None,
    }


async def test_an_unknown_kind(client: EngineClient) -> None:
    with pytest.raises(ValueError, match="kind 'rerank'"):
        await ask(SageLLMAdapter("http://127.0.0.1:1", client), kind="rerank")


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        ({"status": "healthy", "engine_id": "e"}, True),
        ({"status": "unhealthy", "is_running": False}, False),
        ("OK", True),
        (503, False),
    ],
)
async def test_healthy(serve: Serve, client: EngineClient, health: object, expected: bool) -> None:
    assert await SageLLMAdapter(await serve({"GET /health": health}), client).healthy() is expected
