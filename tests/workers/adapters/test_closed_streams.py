"""Streams that end when their engine closes the connection, which it also does when it is killed."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_workers.adapters.base import EngineBroken
from sagellm_workers.adapters.openai_http import OpenAIHttpAdapter
from sagellm_workers.http.transport import EngineClient

from ..conftest import CHAT, EVENT_STREAM_HEAD, Answered, StartTalk, ask, chunked, read_request

OLD_HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
CLOSING_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def choice(index: int = 0, reason: str = "null", key: str = "delta") -> bytes:
    value = b'{"content":"a"}' if key == "delta" else b'"a"'
    return b'data: {"choices":[{"index":%d,"%s":%s,"finish_reason":%s}]}\n\n' % (
        index,
        key.encode(),
        value,
        reason.encode(),
    )


STOP = choice(reason='"stop"')
USAGE = b'data: {"choices":[],"usage":{"completion_tokens":1}}\n\n'


async def answer(talk: StartTalk, client: EngineClient, answer: bytes, **changes: object) -> Answered:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    return await ask(OpenAIHttpAdapter(await talk(handler), client), **changes)


ENDED = {
    "done": choice() + DONE,
    "done, lines of the other kind": (choice() + DONE).replace(b"\n", b"\r\n"),
    "done, no space": b'data:{"choices":[]}\n\ndata:[DONE]\n\n',
    "done without its blank line": choice() + DONE.strip(),
    "a finish reason": choice() + STOP,
    "a finish reason and usage": choice() + STOP + USAGE,
    "a finish reason without its blank line": choice() + STOP.strip(),
    "a finish reason behind a byte order mark": b"\xef\xbb\xbf" + STOP,
    "a completion": choice(key="text") + choice(key="text", reason='"length"'),
    "a call of a tool": choice() + choice(reason='"tool_calls"'),
    "two answers": choice(0) + choice(1) + choice(1, '"stop"') + choice(0, '"stop"'),
    "an error": choice() + b'data: {"error":{"message":"no memory"}}\n\n',
    "comments behind it": STOP + b": bye\n\n",
}


@pytest.mark.parametrize("body", ENDED.values(), ids=ENDED.keys())
@pytest.mark.parametrize("head", [OLD_HEAD, CLOSING_HEAD], ids=["HTTP/1.0", "HTTP/1.1"])
async def test_one_that_says_its_end_is_whole(talk: StartTalk, client: EngineClient, head: bytes, body: bytes) -> None:
    got = (await answer(talk, client, head + body)).body
    assert got.rstrip() == body.rstrip()
    assert got.endswith((b"\n\n", b"\n\r\n"))


@pytest.mark.parametrize("last", [b": by", b": bye\n\n", b"data:\n\n"])
async def test_what_only_keeps_a_connection_alive_is_nothing_of_it(
    talk: StartTalk, client: EngineClient, last: bytes
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CLOSING_HEAD)
        for piece in (b":\n\n", b": ping\n\n", STOP, b"\n\n", last):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)

    assert (await ask(OpenAIHttpAdapter(await talk(handler), client))).items == [STOP]


CUT = {
    "nothing": b"",
    "a comment": b": ping\n\n",
    "between events": choice() * 3,
    "behind usage": choice() + USAGE,
    "between two answers": choice(0) + choice(1) + choice(0, '"stop"'),
    "inside the next comment": choice() + b": pi",
    "garbage": choice() + b"data: x\n\n",
}


@pytest.mark.parametrize("body", CUT.values(), ids=CUT.keys())
@pytest.mark.parametrize("head", [OLD_HEAD, CLOSING_HEAD], ids=["HTTP/1.0", "HTTP/1.1"])
async def test_one_that_does_not_is_cut(talk: StartTalk, client: EngineClient, head: bytes, body: bytes) -> None:
    with pytest.raises(EngineBroken, match="its stream has no end"):
        await answer(talk, client, head + body)


HALVES = [b'data: {"id":"x","cho', b"data:", b"dat", b"data: 1", b"event: x\n", b"data: [DON", b": a\n<html>"]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("framed", [True, False])
async def test_half_an_event_is_never_given(talk: StartTalk, client: EngineClient, half: bytes, framed: bool) -> None:
    body = EVENT_STREAM_HEAD + chunked(STOP, half) if framed else CLOSING_HEAD + STOP + half

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(body)
        await writer.drain()

    async with OpenAIHttpAdapter(await talk(handler), client).run(CHAT) as reply:
        assert await anext(reply.chunks) == STOP
        with pytest.raises(EngineBroken, match="ended inside an event"):
            await anext(reply.chunks)


@pytest.mark.parametrize("body", [choice(), choice().strip(), choice() + USAGE])
async def test_where_http_tells_the_end_the_stream_need_not(talk: StartTalk, client: EngineClient, body: bytes) -> None:
    counted = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
    for whole in (EVENT_STREAM_HEAD + chunked(body), counted + body):
        assert (await answer(talk, client, whole)).body.rstrip() == body.rstrip()


async def test_an_error_may_be_labelled_a_stream(talk: StartTalk, client: EngineClient) -> None:
    head = CLOSING_HEAD.replace(b"200 OK", b"400 Bad Request")
    got = await answer(talk, client, head + b'{"error":{"message":"no"}}')
    assert (got.status, got.body) == (400, b'{"error":{"message":"no"}}')
