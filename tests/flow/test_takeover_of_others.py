"""What real engines say in the middle of an answer, and which of it can be gone on with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
import pytest
from aiohttp import web

from .asking import CHAT_PATH, data
from .conftest import StartEcho, StartSystem
from .echo_engine import EchoEngine, write_until_closed
from .in_process import IN_TURN, InProcessSystem

BODY: dict[str, Any] = {"model": "echo-1", "messages": [{"role": "user", "content": "hi"}], "stream": True}
OPENING = {"role": "assistant", "content": ""}
FIRST = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 11, "model": "echo-1"}
SECOND = FIRST | {"id": "chatcmpl-2", "created": 22}


def chunk(delta: dict[str, Any], head: dict[str, Any] = FIRST, **more: Any) -> bytes:
    """A chunk of a chat; ``more`` belongs to the choice, ``usage`` to the chunk."""
    whole = {"usage": more.pop("usage")} if "usage" in more else {}
    choice = {"index": 0, "delta": delta, "finish_reason": None, **more}
    return b"data: " + orjson.dumps({**head, "choices": [choice], **whole}) + b"\n\n"


Write = Callable[[web.Request, Sequence[bytes]], Awaitable[web.StreamResponse]]

REST = [
    chunk(OPENING, SECOND),
    chunk({"content": " you"}, SECOND),
    chunk({}, SECOND, finish_reason="stop"),
    b"data: [DONE]\n\n",
]


class Relay:
    """Two engines of which whichever is asked first breaks off and the other goes on."""

    def __init__(
        self, engines: Sequence[EchoEngine], begin: Sequence[bytes], rest: Any, write: Write | None = None
    ) -> None:
        self.engines = engines
        self._break_off = write or self._cut
        self.bodies: list[dict[str, Any]] = []
        for engine in engines:
            engine.respond(lambda request: self._answer(request, begin, rest))

    async def _answer(self, request: web.Request, begin: Sequence[bytes], rest: Any) -> web.StreamResponse:
        self.bodies.append(orjson.loads(await request.read()))
        if len(self.bodies) == 1:
            return await self._break_off(request, begin)
        if callable(rest):
            return rest()
        return await self._write(request, rest, cut=False)

    async def _cut(self, request: web.Request, pieces: Sequence[bytes]) -> web.StreamResponse:
        return await self._write(request, pieces, cut=True)

    @classmethod
    async def whole(cls, request: web.Request, pieces: Sequence[bytes]) -> web.StreamResponse:
        """End the answer as if all were well."""
        return await cls._write(request, pieces, cut=False)

    @staticmethod
    async def _write(request: web.Request, pieces: Sequence[bytes], *, cut: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.03)
        if cut:
            assert request.transport is not None
            # In the middle of the wire's own framing: what comes is no HTTP any more.
            request.transport.write(b"\x00 this is no chunk\r\n")
            request.transport.close()
            return response
        await response.write_eof()
        return response


@pytest.fixture
async def engines(start_echo: StartEcho) -> list[EchoEngine]:
    return [await start_echo(), await start_echo()]


@pytest.fixture
async def system(engines: list[EchoEngine], start_system: StartSystem) -> InProcessSystem:
    return await start_system(*engines, **IN_TURN, worker_max_attempts=2)


async def ask(system: InProcessSystem, **fields: Any) -> list[Any]:
    async with system.session.post(system.url + CHAT_PATH, json=BODY | fields) as response:
        assert response.status == 200, await response.text()
        return [event async for event in data(response)]


def texts(events: Sequence[Any]) -> list[str]:
    return [e["choices"][0]["delta"].get("content", "") for e in events if e.get("choices")]


async def test_what_the_engine_is_asked_and_what_the_client_gets(
    engines: list[EchoEngine], system: InProcessSystem
) -> None:
    relay = Relay(engines, [chunk(OPENING), chunk({"content": "How"}), chunk({"content": " are"})], REST)
    events = await ask(system, max_tokens=9, max_completion_tokens=8, min_tokens=4, temperature=0, vendor={"x": 1})
    assert relay.bodies[1] == BODY | {
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "How are"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
        "max_tokens": 6,
        "max_completion_tokens": 6,
        "min_tokens": 2,
        "temperature": 0,
        "vendor": {"x": 1},
    }
    assert texts(events[:-1]) == ["", "How", " are", " you", ""]
    assert {(e["id"], e["created"]) for e in events[:-1]} == {("chatcmpl-1", 11)}
    assert [e["choices"][0]["delta"] for e in events[:-1]].count(OPENING) == 1
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1] == "[DONE]"


@pytest.mark.parametrize("half", [b'data: {"id": "broken", "choi\n\n', b"<html>busy\n\n"])
async def test_behind_garbage_it_goes_on(engines: list[EchoEngine], system: InProcessSystem, half: bytes) -> None:
    relay = Relay(engines, [chunk(OPENING), chunk({"content": "How"}), half], REST)
    events = await ask(system)
    assert relay.bodies[1]["messages"][-1] == {"role": "assistant", "content": "How"}
    assert texts(events[:-1]) == ["", "How", " you", ""]
    assert events[-1] == "[DONE]"


DIED = b'{"error":{"message":"EngineCore encountered an issue.","type":"InternalServerError","code":500}}'


@pytest.mark.parametrize("together", [False, True])
async def test_behind_an_engine_that_says_it_has_failed_it_goes_on(
    engines: list[EchoEngine], system: InProcessSystem, together: bool
) -> None:
    """The connection ends well, as far as HTTP can tell, and so does the stream."""
    last, died = chunk({"content": "How"}), b"data: " + DIED + b"\n\ndata: [DONE]\n\n"
    relay = Relay(engines, [chunk(OPENING), *([last + died] if together else [last, died])], REST, write=Relay.whole)
    events = await ask(system)
    assert relay.bodies[1]["messages"][-1] == {"role": "assistant", "content": "How"}
    assert texts(events[:-1]) == ["", "How", " you", ""]
    assert events[-1] == "[DONE]"


@pytest.mark.parametrize("lost", [[], [b'data: {"id": "broken", "choi']])
async def test_it_goes_on_where_only_the_connection_ended(
    engines: list[EchoEngine], system: InProcessSystem, lost: list[bytes]
) -> None:
    """A body of no known length is cut without an error of HTTP's."""
    relay = Relay(engines, [chunk(OPENING), chunk({"content": "How"}), *lost], REST, write=write_until_closed)
    events = await ask(system)
    assert len(relay.bodies) == 2
    assert texts(events[:-1]) == ["", "How", " you", ""]
    assert {e["id"] for e in events[:-1]} == {"chatcmpl-1"}
    assert [e["choices"][0]["finish_reason"] for e in events[:-1]] == [None, None, None, "stop"]
    assert events[-1] == "[DONE]"


async def test_an_engine_that_goes_on_with_nothing(engines: list[EchoEngine], system: InProcessSystem) -> None:
    Relay(engines, [chunk(OPENING), chunk({"content": "How"})], [b": ping\n\n"])
    *events, last = await ask(system)
    assert texts(events) == ["", "How"]
    assert last["error"]["code"] == "engine_broken"


async def test_empty_events_only_keep_the_connection(engines: list[EchoEngine], system: InProcessSystem) -> None:
    relay = Relay(
        engines, [b"data:\n\n", chunk(OPENING), chunk({"content": "How"}), b"data:\n\n"], [b"data: \n\n", *REST]
    )
    events = await ask(system)
    assert len(relay.bodies) == 2
    assert texts(events[:-1]) == ["", "How", " you", ""]


async def test_broken_off_behind_the_role_it_starts_anew(engines: list[EchoEngine], system: InProcessSystem) -> None:
    relay = Relay(engines, [chunk(OPENING)], REST)
    events = await ask(system, max_tokens=9)
    assert relay.bodies[0] == relay.bodies[1]
    assert [e["choices"][0]["delta"] for e in events[:-1]] == [OPENING, {"content": " you"}, {}]
    assert {e["id"] for e in events[:-1]} == {"chatcmpl-1"}


async def test_exact_counts_of_an_engine_that_tells_them(engines: list[EchoEngine], system: InProcessSystem) -> None:
    """Two tokens in one chunk: usage with every chunk says so."""
    began = chunk({"role": "assistant", "content": "How are"}, usage={"prompt_tokens": 5, "completion_tokens": 2})
    counted = {"prompt_tokens": 99, "completion_tokens": 1, "total_tokens": 100}
    rest = [chunk({"content": " you"}, SECOND, usage=counted), chunk({}, SECOND, finish_reason="stop", usage=counted)]
    relay = Relay(engines, [began], [*rest, b"data: [DONE]\n\n"])
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = await ask(system, max_tokens=9, stream_options=options)
    assert relay.bodies[1]["max_tokens"] == 7
    assert events[-2]["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


async def test_only_the_end_is_missing(engines: list[EchoEngine], system: InProcessSystem) -> None:
    begin = [chunk(OPENING), chunk({"content": "How"}), chunk({}, finish_reason="stop")]
    relay = Relay(engines, begin, REST)
    events = await ask(system)
    assert len(relay.bodies) == 1
    assert texts(events[:-1]) == ["", "How", ""]
    assert events[-1] == "[DONE]"


async def test_only_the_usage_is_missing(engines: list[EchoEngine], system: InProcessSystem) -> None:
    begin = [chunk(OPENING), chunk({"content": "How"}), chunk({}, finish_reason="stop")]
    counted = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    last = b"data: " + orjson.dumps({**SECOND, "choices": [], "usage": counted}) + b"\n\n"
    relay = Relay(engines, begin, [*REST[:3], last, REST[3]])
    events = await ask(system, stream_options={"include_usage": True}, max_tokens=50)
    assert relay.bodies[1]["max_tokens"] == 1
    assert relay.bodies[1]["messages"] == BODY["messages"]
    assert texts(events[:-1]) == ["", "How", ""]
    assert events[-2]["usage"] == counted
    assert events[-2]["id"] == "chatcmpl-1"
    assert events[-1] == "[DONE]"


TOOL = {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]}
OBSTACLES = {
    "it has begun to call a tool": [chunk({"content": "Let me see"}), chunk(TOOL)],
    "the model has begun to reason": [chunk({"reasoning_content": "Hmm"})],
    "the model is still reasoning": [chunk({"content": "<think>"}), chunk({"content": "hm"})],
    "it is more than text": [chunk({"audio": {"data": "aGk="}})],
    "it has ended with an error": [chunk({"content": "So"}), b'data: {"error": {"message": "no", "code": 400}}\n\n'],
    "what came of it cannot be read": [chunk({"content": "So"}), b'data: {"id": broken}\n\n'],
    "it is more than one answer": [chunk({"content": "So"}), chunk({"content": "so"}, index=1)],
    "it has log probabilities": [chunk({"content": "So"}, logprobs={"content": [{"token": "So"}]})],
}


@pytest.mark.parametrize("why", OBSTACLES)
async def test_what_cannot_be_gone_on_with_says_so(
    engines: list[EchoEngine], system: InProcessSystem, why: str
) -> None:
    relay = Relay(engines, [chunk(OPENING), *OBSTACLES[why]], REST)
    async with system.session.post(system.url + CHAT_PATH, json=BODY) as response:
        raw = await response.read()
    last = orjson.loads(raw.strip().split(b"\n\n")[-1].removeprefix(b"data: "))
    assert last["error"]["code"] == "engine_lost"
    assert why in last["error"]["message"]
    assert len(relay.bodies) == 1
    assert b"[DONE]" not in raw
    await system.until_idle()


async def test_images_are_left_to_engines_that_can(engines: list[EchoEngine], system: InProcessSystem) -> None:
    """llama.cpp, as which these engines introduce themselves, is not trusted with that."""
    relay = Relay(engines, [chunk(OPENING), chunk({"content": "A cat"})], REST)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    *_, last = await ask(system, messages=[{"role": "user", "content": [{"type": "text", "text": "what?"}, image]}])
    assert last["error"]["code"] == "engine_lost"
    assert "llama.cpp" in last["error"]["message"]
    assert len(relay.bodies) == 1


async def test_an_engine_that_refuses_to_go_on(engines: list[EchoEngine], system: InProcessSystem) -> None:
    """Its own words would make no sense to a client that has half an answer."""
    refusal = b'{"error":{"message":"Assistant response prefill is incompatible with enable_thinking."}}'
    relay = Relay(engines, [chunk(OPENING), chunk({"content": "How"})], lambda: web.Response(status=400, body=refusal))
    *events, last = await ask(system)
    assert texts(events) == ["", "How"]
    assert last["error"]["code"] == "engine_lost"
    assert "400" in last["error"]["message"]
    assert len(relay.bodies) == 2
    await system.until_idle()


@pytest.mark.parametrize("answer", [b'{"choices": []}', b"<html>"])
async def test_an_engine_that_goes_on_with_no_stream(
    engines: list[EchoEngine], system: InProcessSystem, answer: bytes
) -> None:
    Relay(engines, [chunk(OPENING), chunk({"content": "How"})], lambda: web.Response(body=answer))
    *events, last = await ask(system)
    assert texts(events) == ["", "How"]
    assert last["error"]["code"] == "engine_broken"


@pytest.mark.parametrize("piece", [b'data: {"error": {"message": "no memory"}}\n\n', b"data: {broken\n\n"])
async def test_an_engine_that_goes_on_with_garbage(
    engines: list[EchoEngine], system: InProcessSystem, piece: bytes
) -> None:
    Relay(engines, [chunk(OPENING), chunk({"content": "How"})], [chunk({"content": " are"}, SECOND), piece])
    *events, last = await ask(system)
    assert "".join(texts(events)) == "How are"
    assert last["error"]["code"] == "engine_broken"
    await system.until_idle()
