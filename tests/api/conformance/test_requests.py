"""Requests that a manager runs, wherever its state lives."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from sagellm_protocol import (
    ChatMessage,
    ErrorCode,
    Request,
    Response,
    StreamEventDelta,
    StreamEventEnd,
    StreamEventStart,
)

from sagellm_control import RequestType

from ...flow.conftest import ENDLESS
from ...waiting import wait_until
from ..conftest import TELLS_ALL, StartEngine, StartPlane, a_request, prompt_tokens

WIRES = ("openai", "sagellm")
HELLO: dict[str, Any] = {"prompt": "", "messages": [ChatMessage(role="user", content="Hello")]}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("chat", [False, True], ids=["prompt", "messages"])
async def test_a_request_is_answered(start_plane: StartPlane, start_engine: StartEngine, wire: str, chat: bool) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine(wire=wire))
    await plane.ready("e1")
    what: dict[str, Any] = HELLO if chat else {}
    response = await plane.manager.execute_request(a_request(**what))
    assert isinstance(response, Response)
    assert response.error is None
    assert (response.request_id, response.trace_id) == ("r-1", "t-1")
    assert response.output_text
    assert response.finish_reason == "length"
    assert ((prompt_tokens(response) or 0) > 0) == TELLS_ALL
    assert response.metrics.ttft_ms > 0
    assert response.metrics.error_rate == 0
    assert len(response.output_tokens) == 5
    # OpenAI's wire tells how many tokens there are and not which.
    assert (set(response.output_tokens) == {-1}) == (wire == "openai")
    await plane.active("e1", 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_prefill_and_decode_are_separate(
    start_plane: StartPlane, start_engine: StartEngine, stream: bool
) -> None:
    plane = await start_plane()
    prefill, decode = await start_engine(), await start_engine()
    plane.register("p", prefill, instance_type="prefilling")
    plane.register("d", decode, instance_type="decoding")
    await plane.ready("p", "d")
    if stream:
        *_, end = [event async for event in plane.manager.stream_request(a_request())]
        assert isinstance(end, StreamEventEnd)
        assert (end.error, end.engine_id) == (None, "d")
    else:
        assert (await plane.manager.execute_request(a_request())).output_text
    read, fetched = await prefill.state(), await decode.state()
    assert (read["prefills_kept"], read["generated_tokens"]) == (1, 1)
    assert (fetched["prefills_fetched"], fetched["prompts_read"], fetched["generated_tokens"]) == (1, 0, 5)
    await plane.active("p", 0)
    await plane.active("d", 0)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("chat", [False, True], ids=["prompt", "messages"])
async def test_a_request_is_streamed(start_plane: StartPlane, start_engine: StartEngine, wire: str, chat: bool) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine(wire=wire))
    await plane.ready("e1")
    what: dict[str, Any] = HELLO if chat else {}
    whole = await plane.manager.execute_request(a_request(**what))
    start, *between, end = [event async for event in plane.manager.stream_request(a_request(**what))]
    assert isinstance(start, StreamEventStart)
    assert (start.request_id, start.trace_id, start.engine_id) == ("r-1", "t-1", "e1")
    deltas = [event for event in between if isinstance(event, StreamEventDelta)]
    assert len(deltas) == len(between)
    assert isinstance(end, StreamEventEnd)
    assert end.error is None
    assert end.engine_id == "e1"
    assert end.finish_reason == "length"
    assert end.content == "".join(delta.content for delta in deltas) == whole.output_text
    assert prompt_tokens(end) == prompt_tokens(whole)
    assert end.output_tokens == whole.output_tokens
    assert [token for delta in deltas for token in delta.content_tokens] == end.output_tokens
    if wire == "sagellm":
        assert start.prompt_tokens is not None
        assert prompt_tokens(end) in (start.prompt_tokens, None)
    await plane.active("e1", 0)


async def test_without_an_engine(start_plane: StartPlane) -> None:
    plane = await start_plane()
    response = await plane.manager.execute_request(a_request(model="nothing"))
    assert (response.finish_reason, response.output_text, response.output_tokens) == ("error", "", [])
    assert response.metrics.error_rate == 1.0
    assert response.error is not None
    assert response.error.code == ErrorCode.UNAVAILABLE
    assert response.error.message == "No healthy engines available for model nothing"
    assert response.error.retryable is True
    events = [event async for event in plane.manager.stream_request(a_request(model="nothing"))]
    assert len(events) == 1
    assert isinstance(events[0], StreamEventEnd)
    assert events[0].engine_id == "no-engine"
    assert events[0].finish_reason == "error"
    assert events[0].error == response.error


async def test_one_deadline_for_everything(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    engine = await start_engine(hang_rate=1.0)
    plane.register("e1", engine)
    await plane.ready("e1")
    began = time.monotonic()
    response = await plane.manager.execute_request(a_request(), timeout_s=0.4)
    assert time.monotonic() - began < 10
    assert response.error is not None
    assert response.error.code == ErrorCode.DEADLINE_EXCEEDED
    await plane.active("e1", 0)


async def test_a_caller_that_stops_cancels(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    engine = await start_engine(**ENDLESS)
    plane.register("e1", engine)
    await plane.ready("e1")
    call = asyncio.create_task(plane.manager.execute_request(a_request("r1")))
    await engine.until(running=1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await engine.until(running=0, aborted=1)
    await plane.active("e1", 0)


async def test_a_reader_that_leaves_cancels(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    engine = await start_engine(**ENDLESS)
    plane.register("e1", engine)
    await plane.ready("e1")
    async for event in plane.manager.stream_request(a_request()):
        assert isinstance(event, StreamEventStart)
        break
    await engine.until(running=0, aborted=1)
    await plane.active("e1", 0)


async def test_the_engines_refusal_reaches_the_caller(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine(fail_rate=1.0, fail_status=400))
    await plane.ready("e1")
    response = await plane.manager.execute_request(a_request())
    assert response.error is not None
    assert response.error.code == ErrorCode.INVALID_ARGUMENT
    assert response.error.message.startswith("Request error: 400 - ")
    assert response.error.retryable is False


async def test_an_engine_that_does_not_take_our_key_is_passed_over(
    start_plane: StartPlane, start_engine: StartEngine
) -> None:
    plane = await start_plane()
    bad = await start_engine(fail_rate=1.0, fail_status=401)
    plane.register("bad", bad)
    plane.register("good", await start_engine())
    await plane.ready("bad", "good")
    answers = [await plane.manager.execute_request(a_request(f"r{number}")) for number in range(4)]
    assert [answer.error for answer in answers] == [None] * 4
    assert (await bad.state())["total_requests"], "the test has not tested anything"


async def test_metadata_that_is_wrong(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine())
    await plane.ready("e1")
    for metadata, named in (({"priority": "SOON"}, "priority"), ({"slo_deadline_ms": -1}, "slo_deadline_ms")):
        response = await plane.manager.execute_request(a_request(metadata=metadata))
        assert response.error is not None
        assert response.error.code == ErrorCode.INVALID_ARGUMENT
        assert named in response.error.message


async def test_the_urgent_request_goes_first(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane(scheduling_policy="priority")
    plane.register("e1", await start_engine(), max_concurrent_requests=1)
    await plane.ready("e1")
    await plane.placed("holder")
    done: list[str] = []

    async def run(name: str, priority: str) -> None:
        response = await plane.manager.execute_request(a_request(name, metadata={"priority": priority}))
        assert response.error is None
        done.append(name)

    async with asyncio.TaskGroup() as tasks:
        for number, (name, priority) in enumerate((("patient", "LOW"), ("urgent", "CRITICAL")), start=1):
            tasks.create_task(run(name, priority))
            await wait_until(lambda number=number: plane.manager.get_load()[0].waiting == number)
        plane.manager.complete_request("holder", "e1")
    assert done == ["urgent", "patient"]


async def test_embeddings(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    engines = [await start_engine(models=["vectors"]) for _ in range(2)]
    for number, engine in enumerate(engines):
        plane.register(f"v{number}", engine, model="vectors", engine_kind="embedding")
    await plane.ready("v0", "v1")
    assert await plane.manager.get_embeddings([]) == []
    rows = await plane.manager.get_embeddings(["one", "two", "one"], "vectors")
    assert len(rows) == 3
    assert rows[0] == rows[2] != rows[1]
    await asyncio.gather(*(plane.manager.get_embeddings(["one"]) for _ in range(6)))

    async def finished() -> list[int]:
        return [(await engine.state())["finished"] for engine in engines]

    assert min(await finished()) >= 2, "both engines work"
    with pytest.raises(ValueError, match="No embedding engines available"):
        await plane.manager.get_embeddings(["one"], "others")
    await wait_until(lambda: all(info.active_requests == 0 for info in plane.manager.list_engines()))


async def test_engines_of_one_model_get_what_they_are_for(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    text, vectors = await start_engine(), await start_engine()
    plane.register("text", text)
    plane.register("vectors", vectors, engine_kind="embedding")
    await plane.ready("text", "vectors")
    manager = plane.manager
    for number in range(3):
        assert (await manager.execute_request(a_request(f"r{number}"))).error is None
        assert await manager.get_embeddings(["one"], "simulated-1")
    for number, kind, wanted in ((1, RequestType.EMBEDDING, "vectors"), (2, RequestType.LLM_CHAT, "text")):
        for turn in range(2):
            name = f"s{number}-{turn}"
            assert (await plane.placed(name, request_type=kind)).engine_id == wanted
    assert [(await engine.state())["finished"] for engine in (text, vectors)] == [3, 3]


class SeveralAnswers(Request):
    """A program may add fields of its own."""

    n: int = 2


async def test_what_cannot_be_separated_is_not(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    prefill, decode = await start_engine(), await start_engine()
    plane.register("p", prefill, instance_type="prefilling")
    plane.register("d", decode, instance_type="decoding")
    await plane.ready("p", "d")
    request = SeveralAnswers.model_validate(a_request().model_dump())
    response = await plane.manager.execute_request(request)
    assert response.error is None
    assert ((await prefill.state())["prefills_kept"], (await decode.state())["finished"]) == (0, 1)
