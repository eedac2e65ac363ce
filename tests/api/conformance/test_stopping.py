"""What a manager's stop leaves alone, wherever its state lives."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from aiohttp import web
from sagellm_protocol import StreamEventDelta, StreamEventEnd

from ...flow.echo_engine import EchoEngine
from ...waiting import wait_until
from ..conftest import Plane, StartEcho, StartPlane, a_request

MODEL = "echo-1"


def _piece(text: str, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish_reason}
    return b"data: %b\n\n" % orjson.dumps({"choices": [choice]})


async def _serving(start_plane: StartPlane, engine: EchoEngine) -> Plane:
    plane = await start_plane()
    plane.register("e1", engine, model=MODEL)
    await plane.ready("e1")
    return plane


async def test_a_request_on_its_way_is_answered(start_plane: StartPlane, start_echo: StartEcho) -> None:
    gate, engine = asyncio.Event(), await start_echo()

    async def answering(_: web.Request) -> web.Response:
        await gate.wait()
        return web.json_response({"choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}]})

    engine.respond(answering)
    plane = await _serving(start_plane, engine)
    calls = [asyncio.create_task(plane.manager.execute_request(a_request(f"r{n}", model=MODEL))) for n in range(2)]
    await wait_until(lambda: len(engine.reached) == 2)
    await plane.manager.stop()
    assert not any(call.done() for call in calls)
    gate.set()
    for response in await asyncio.gather(*calls):
        assert (response.output_text, response.error) == ("Hi", None)
    assert (len(engine.reached), engine.aborted) == (2, 0), "each ran once"


@pytest.mark.parametrize("again", [False, True], ids=["stopped", "started_again"])
async def test_a_stream_on_its_way_goes_on(start_plane: StartPlane, start_echo: StartEcho, again: bool) -> None:
    gate, engine = asyncio.Event(), await start_echo()
    engine.stream([_piece("one "), _piece("two", "stop") + b"data: [DONE]\n\n"], gate=gate)
    plane = await _serving(start_plane, engine)
    events = plane.manager.stream_request(a_request(model=MODEL))
    while not isinstance(await anext(events), StreamEventDelta):
        pass
    await plane.manager.stop()
    if again:
        await plane.manager.start()
    gate.set()
    *_, end = [event async for event in events]
    assert isinstance(end, StreamEventEnd)
    assert (end.content, end.error) == ("one two", None)
    assert (len(engine.reached), engine.aborted) == (1, 0)


async def test_a_stopped_manager_can_be_asked(start_plane: StartPlane, start_echo: StartEcho) -> None:
    engine = await start_echo()
    engine.answer(orjson.dumps({"choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}]}))
    plane = await _serving(start_plane, engine)
    await plane.manager.stop()
    assert (await plane.manager.execute_request(a_request(model=MODEL))).output_text == "Hi"
