"""The OpenAI wire: bytes unchanged both ways, and what becomes of engines that misbehave."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from sagellm_control.wire.trace_context import TraceContext
from sagellm_workers.adapters.base import EngineBroken, EngineError
from sagellm_workers.adapters.openai_http import OpenAIHttpAdapter
from sagellm_workers.http.transport import EngineClient

from ..conftest import CHAT, EVENT_STREAM_HEAD, Serve, StartTalk, ask, chunked, read_request

PATHS = {"chat": "/v1/chat/completions", "completion": "/v1/completions", "embedding": "/v1/embeddings"}


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read(), content_type="application/json")


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_each_kind_has_its_path(serve: Serve, client: EngineClient, kind: str, suffix: str) -> None:
    url = await serve({f"POST {PATHS[kind]}": echo})
    adapter = OpenAIHttpAdapter(url + suffix, client)
    assert (adapter.name, adapter.url) == ("openai", url)
    body = '{"model": "m",   "vendor": [1, "é"]}'.encode()
    answer = await ask(adapter, kind=kind, body=body)
    assert (answer.status, answer.content_type, answer.body) == (200, "application/json", body)


async def test_an_engine_below_a_path(serve: Serve, client: EngineClient) -> None:
    url = await serve({"POST /engines/a/v1/completions": echo})
    assert (await ask(OpenAIHttpAdapter(url + "/engines/a/v1", client), kind="completion")).status == 200


async def test_an_unknown_kind(client: EngineClient) -> None:
    with pytest.raises(ValueError, match="kind 'rerank' is none of chat, completion, embedding"):
        await ask(OpenAIHttpAdapter("http://127.0.0.1:1", client), kind="rerank")


def test_a_url_with_a_password(client: EngineClient) -> None:
    with pytest.raises(ValueError, match="give an api_key") as refused:
        OpenAIHttpAdapter("http://user:secret@a", client)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://a", "http://", "http://a/?x=1", "http://a:x"])
def test_a_url_that_is_none(client: EngineClient, url: str) -> None:
    with pytest.raises(ValueError, match="is no URL of an engine"):
        OpenAIHttpAdapter(url, client)


@pytest.mark.parametrize("stream", [True, False])
async def test_headers(serve: Serve, client: EngineClient, stream: bool) -> None:
    seen: dict[str, str] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update({name.lower(): value for name, value in request.headers.items()})
        return web.json_response({})

    url = await serve({"POST /v1/chat/completions": handler})
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await ask(
        OpenAIHttpAdapter(url, client, api_key="sk-1"), stream=stream, trace=TraceContext("trace-1", trace, "a=1,b=2 3")
    )
    assert seen == {
        "host": url.removeprefix("http://"),
        "content-type": "application/json",
        "content-length": str(len(CHAT.body)),
        "accept": "text/event-stream" if stream else "application/json",
        "accept-encoding": "identity",
        "user-agent": "sagellm-control-worker",
        "authorization": "Bearer sk-1",
        "x-request-id": "req-1",
        "x-trace-id": "trace-1",
        "traceparent": trace,
        "tracestate": "a=1,b=2 3",
    }


@pytest.mark.parametrize("trace_id", ["", "a\r\nX-Evil: 1", "a\nb", "é", "a\0b"])
async def test_an_id_that_is_no_header_is_left_out(serve: Serve, client: EngineClient, trace_id: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(sorted(name for name in request.headers if name.startswith(("X-", "trace"))))

    adapter = OpenAIHttpAdapter(await serve({"POST /v1/chat/completions": handler}), client)
    assert (await ask(adapter, trace=TraceContext(trace_id))).json == ["X-Request-ID"]


def test_a_key_that_is_no_header(client: EngineClient) -> None:
    with pytest.raises(ValueError, match="api_key"):
        OpenAIHttpAdapter("http://127.0.0.1:1", client, api_key="a\r\nb")


async def test_a_stream_comes_event_by_event(talk: StartTalk, client: EngineClient) -> None:
    """Cut inside a character, inside an event and inside a blank line."""
    go_on = asyncio.Event()
    first, second = "data: é\n\n".encode(), b"data: 2\r\n\r\n"

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(EVENT_STREAM_HEAD + chunked(first[:7], first[7:-1], end=False))
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(chunked(first[-1:] + second[:-1], end=False))
        await go_on.wait()
        writer.write(chunked(second[-1:], b"data: [DONE]"))
        await reader.read()

    adapter = OpenAIHttpAdapter(await talk(handler), client)
    async with adapter.run(CHAT) as reply:
        assert reply.is_event_stream
        assert await anext(reply.chunks) == first
        go_on.set()
        assert [item async for item in reply.chunks] == [second, b"data: [DONE]\n\n"]


async def test_a_redirect_is_not_followed(serve: Serve, client: EngineClient) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise web.HTTPPermanentRedirect("http://elsewhere/v1")

    adapter = OpenAIHttpAdapter(await serve({"POST /v1/chat/completions": handler}), client)
    with pytest.raises(EngineBroken, match="redirects to http://elsewhere/v1: give that address"):
        await ask(adapter)


async def test_a_stream_that_is_answered_with_json(serve: Serve, client: EngineClient) -> None:
    error = {"error": {"message": "no such model", "type": "NotFoundError", "param": "model", "code": 404}}

    async def handler(_: web.Request) -> web.Response:
        return web.json_response(error, status=404)

    answer = await ask(OpenAIHttpAdapter(await serve({"POST /v1/chat/completions": handler}), client))
    assert (answer.status, answer.json) == (404, error)


async def test_a_plain_request_that_is_answered_with_a_stream(talk: StartTalk, client: EngineClient) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(EVENT_STREAM_HEAD + chunked(b"data: 1\n", b"\ndata: 2\n\n"))
        await reader.read()

    answer = await ask(OpenAIHttpAdapter(await talk(handler), client), stream=False)
    assert answer.body == b"data: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("1.5", 1.5),
        ("²", None),
        ("inf", None),
        ("soon", None),
        ("-3", None),
        ("nan", None),
        ("", None),
        ("Sun, 01 Nov 2015 08:49:37 GMT", 0.0),
    ],
)
async def test_retry_after(serve: Serve, client: EngineClient, value: str, expected: float | None) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({}, status=429, headers={"Retry-After": value})

    answer = await ask(OpenAIHttpAdapter(await serve({"POST /v1/chat/completions": handler}), client))
    assert (answer.status, answer.retry_after_s) == (429, expected)


async def test_retry_after_as_a_date(serve: Serve, client: EngineClient) -> None:
    async def handler(_: web.Request) -> web.Response:
        when = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
        return web.json_response({}, status=503, headers={"Retry-After": when})

    answer = await ask(OpenAIHttpAdapter(await serve({"POST /v1/chat/completions": handler}), client))
    assert answer.retry_after_s is not None
    assert 80 < answer.retry_after_s <= 90


@pytest.mark.parametrize("streamed", [True, False])
async def test_leaving_early_cuts_the_connection(talk: StartTalk, client: EngineClient, streamed: bool) -> None:
    cut = asyncio.Event()
    head = EVENT_STREAM_HEAD if streamed else EVENT_STREAM_HEAD.replace(b"text/event-stream", b"text/plain")

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(head + chunked(b"data: 1\n\n", end=False))
        assert await reader.read() == b""
        cut.set()

    adapter = OpenAIHttpAdapter(await talk(handler), client)
    async with asyncio.timeout(20):
        async with adapter.run(CHAT) as reply:
            assert await anext(reply.chunks) == b"data: 1\n\n"
        await cut.wait()


async def test_a_cancellation_cuts_the_connection(talk: StartTalk, client: EngineClient) -> None:
    began, cut = asyncio.Event(), asyncio.Event()

    async def handler(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await read_request(reader)
        began.set()
        assert await reader.read() == b""
        cut.set()

    adapter = OpenAIHttpAdapter(await talk(handler), client)
    task = asyncio.create_task(ask(adapter))
    async with asyncio.timeout(20):
        await began.wait()
        task.cancel()
        await cut.wait()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_engine_that_does_not_read_is_left_at_once(talk: StartTalk, client: EngineClient) -> None:
    """The answer comes while most of the body still waits to be sent."""
    gone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        await gone.wait()

    adapter = OpenAIHttpAdapter(await talk(handler), client)
    async with asyncio.timeout(20):
        async with adapter.run(replace(CHAT, body=b"x" * 2**25)) as reply:
            assert reply.status == 413
        gone.set()


async def test_every_failure_is_an_engine_error(client: EngineClient, unused_tcp_port: int) -> None:
    with pytest.raises(EngineError):
        await ask(OpenAIHttpAdapter(f"https://127.0.0.1:{unused_tcp_port}", client))
