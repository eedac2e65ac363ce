"""A client over HTTP excuses what a disturbed gateway does, and nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
from aiohttp import web

from sagellm_control.chaos.http_asking import HttpAsking, Reading, http_session
from sagellm_control.chaos.ledger import Asked, Ledger
from sagellm_control.chaos.question import Question

from .test_transcript import TOKENS, chunk, stream

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ACCEPTED = {"X-Request-Priority": "NORMAL"}


class Scene:
    """One client, one gateway that the test plays itself."""

    def __init__(self, asking: HttpAsking, ledger: Ledger, asked: Asked) -> None:
        self.asking, self.ledger, self.asked = asking, ledger, asked


@asynccontextmanager
async def playing(
    handler: Handler, *, disturbed: bool = False, key: str | None = None, resumed: Handler | None = None
) -> AsyncGenerator[Scene, None]:
    """A gateway that does as ``handler`` does; with ``resumed`` the question's events are numbered."""
    app = web.Application()
    if resumed is not None:
        app.router.add_get("/v1/requests/a/events", resumed)
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        gateway = SimpleNamespace(name="gateway-1", disturbed_since=Mock(return_value=disturbed))
        urls = {"gateway-1": f"http://127.0.0.1:{runner.addresses[0][1]}"}
        system = SimpleNamespace(of=Mock(return_value=[gateway]), gateway_urls=urls)
        ledger = Ledger()
        async with http_session() as session:
            asking = HttpAsking(session, cast(Any, system), ledger, random.Random(0))
            yield Scene(asking, ledger, ledger.open(Question("what is it", 12), "a", key, numbered=resumed is not None))
    finally:
        await runner.cleanup()


async def begin(request: web.Request, data: bytes) -> web.StreamResponse:
    echoed = ACCEPTED if request.method == "POST" else {}
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **echoed})
    await response.prepare(request)
    await response.write(data)
    return response


async def whole(request: web.Request) -> web.StreamResponse:
    return await begin(request, stream(TOKENS))


async def half(request: web.Request) -> web.StreamResponse:
    return await begin(request, chunk(TOKENS[0]))


async def cut(request: web.Request) -> web.StreamResponse:
    response = await half(request)
    assert request.transport is not None
    request.transport.close()
    return response


async def test_a_whole_answer() -> None:
    async with playing(whole) as scene:
        assert await scene.asking.ask(scene.asked) is Reading.ENDED
    assert scene.asked.accepted
    assert scene.asked.transcript.check() == {}
    assert scene.ledger.problems == []


async def test_it_leaves_when_it_has_heard_enough() -> None:
    async with playing(half) as scene:
        assert await scene.asking.ask(scene.asked, leave_after=1) is Reading.LEFT
    assert scene.ledger.problems == []


async def test_a_stream_that_closes_properly_without_an_end_is_a_problem() -> None:
    async with playing(half, disturbed=True) as scene:
        assert await scene.asking.ask(scene.asked) is Reading.BROKEN
    assert scene.ledger.problems == ["a: its stream closed properly without an end"]


@pytest.mark.parametrize("disturbed", [True, False])
async def test_a_broken_connection_is_a_problem_unless_its_gateway_was_disturbed(disturbed: bool) -> None:
    async with playing(cut, disturbed=disturbed) as scene:
        assert await scene.asking.ask(scene.asked) is Reading.BROKEN
    assert [problem.partition(": ")[2][:9] for problem in scene.ledger.problems] == ([] if disturbed else ["gateway-1"])


async def test_a_refusal_is_no_request() -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"code": "queue_unavailable", "type": "x"}}, status=503)

    async with playing(refuse) as scene:
        assert await scene.asking.ask(scene.asked) is Reading.REFUSED
    assert scene.ledger.refused == {"queue_unavailable": 1}
    assert scene.ledger.asked == {}


async def test_an_error_of_what_was_accepted_is_its_end() -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"code": "engine_lost", "type": "x"}}, status=502, headers=ACCEPTED)

    async with playing(fail) as scene:
        assert await scene.asking.ask(scene.asked) is Reading.ENDED
    assert (scene.asked.accepted, scene.asked.transcript.error) == (True, "engine_lost")


async def test_an_internal_error_is_a_problem() -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"code": "internal_error", "type": "x"}}, status=500)

    async with playing(fail) as scene:
        await scene.asking.ask(scene.asked)
    assert "internal_error" in scene.ledger.problems[0]


async def test_who_comes_back_reads_the_whole_answer_again() -> None:
    keys: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        keys.append(request.headers["Idempotency-Key"])
        return await (whole(request) if len(keys) > 1 else cut(request))

    async with playing(answer, disturbed=True, key="again") as scene:
        assert await scene.asking.ask(scene.asked) is Reading.BROKEN
        assert await scene.asking.resume(scene.asked) is Reading.ENDED
    assert keys == ["again", "again"]
    assert scene.asked.transcript.check() == {}


STOPPING = {"error": {"code": "gateway_stopping", "type": "service_unavailable_error"}}


async def stop_with_a_503(request: web.Request) -> web.StreamResponse:
    return web.json_response(STOPPING, status=503, headers=ACCEPTED)


async def stop_in_mid_stream(request: web.Request) -> web.StreamResponse:
    return await begin(request, chunk(TOKENS[0]) + b"data: " + json.dumps(STOPPING).encode() + b"\n\n")


@pytest.mark.parametrize("disturbed", [True, False])
@pytest.mark.parametrize("stop", [stop_with_a_503, stop_in_mid_stream])
async def test_who_is_turned_away_by_a_gateway_that_stops_comes_back(stop: Handler, disturbed: bool) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await (whole(request) if scene.asked.accepted else stop(request))

    async with playing(answer, disturbed=disturbed, key="again") as scene:
        assert await scene.asking.ask(scene.asked) is Reading.BROKEN
        assert scene.asked.accepted
        assert await scene.asking.resume(scene.asked) is Reading.ENDED
    assert scene.asked.transcript.check() == {}
    assert len(scene.ledger.problems) == (0 if disturbed else 1)


def numbered(data: bytes, first: int = 1) -> bytes:
    events = data.removesuffix(b"\n\n").split(b"\n\n")
    return b"".join(b"id: 1-%d\n%s\n\n" % (number, event) for number, event in enumerate(events, first))


async def cut_in_an_event(request: web.Request) -> web.StreamResponse:
    assert request.headers["X-Event-IDs"] == "true"
    # The data of the third has come, and not the line that ends it.
    response = await begin(request, numbered(stream(TOKENS[:3]))[: len(numbered(b"".join(map(chunk, TOKENS[:3])))) - 1])
    assert request.transport is not None
    request.transport.close()
    return response


async def test_a_numbered_stream_goes_on_behind_its_last_whole_event() -> None:
    asked_for: list[str | None] = []

    async def resumed(request: web.Request) -> web.StreamResponse:
        asked_for.append(request.headers.get("Last-Event-ID"))
        return await begin(request, numbered(stream(TOKENS), 1).partition(b"id: 1-3")[2].join([b"id: 1-3", b""]))

    async with playing(cut_in_an_event, disturbed=True, resumed=resumed) as scene:
        assert await scene.asking.ask(scene.asked) is Reading.BROKEN
        assert await scene.asking.resume(scene.asked) is Reading.ENDED
    assert asked_for == ["1-2"]
    assert scene.asked.transcript.check() == {}


async def test_what_can_be_come_back_for_was_accepted() -> None:
    async def close(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def resumed(request: web.Request) -> web.StreamResponse:
        return await begin(request, numbered(chunk(TOKENS[0])))

    async with playing(close, disturbed=True, resumed=resumed) as scene:
        assert await scene.asking.ask(scene.asked) is Reading.BROKEN
        assert not scene.asked.accepted
        assert await scene.asking.resume(scene.asked, leave_after=1) is Reading.LEFT
    assert scene.asked.accepted


async def test_an_accepted_request_that_nobody_knows_is_lost() -> None:
    async def resumed(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"code": "request_not_found", "type": "x"}}, status=404)

    async with playing(cut, disturbed=True, resumed=resumed) as scene:
        assert await scene.asking.ask(scene.asked) is Reading.BROKEN
        assert await scene.asking.resume(scene.asked) is Reading.ENDED
    assert scene.ledger.lost == {"a"}


async def test_nothing_left_of_an_answer_without_an_end_is_a_problem() -> None:
    async def resumed(request: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    async with playing(cut, disturbed=True, resumed=resumed) as scene:
        assert await scene.asking.ask(scene.asked) is Reading.BROKEN
        assert await scene.asking.resume(scene.asked) is Reading.BROKEN
    assert scene.ledger.problems == ["a: nothing is left of an answer whose end never came"]
