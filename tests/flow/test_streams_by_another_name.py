"""Engines that stream as they were asked to, and say that it is something else, or nothing at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from aiohttp import web

from .asking import CHAT_PATH, error_of
from .conftest import GOOD, StartSystem
from .echo_engine import Answering, EchoEngine, write_until_closed
from .test_engine_trouble import ASKED, TOKEN, ask

DONE = b"data: [DONE]\n\n"
MARK = b"\xef\xbb\xbf"
BEGINNINGS = {
    "data": b"",
    "a comment": b": hello\n\n",
    "an event": b"event: message\n",
    "an id": b"id: 7\n",
    "a pause": b"retry: 100\n",
    "a mark": MARK,
    "a mark and blank lines": MARK + b"\r\n\n",
}


def _talk(content_type: str | None, pieces: Sequence[bytes], pause_s: float = 0.0) -> Answering:
    """These pieces, each in a packet of its own, as chunks; None: without a Content-Type."""
    kind = "" if content_type is None else f"Content-Type: {content_type}\r\n"

    async def answering(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(f"HTTP/1.1 200 OK\r\n{kind}Transfer-Encoding: chunked\r\n\r\n".encode())
        for piece in pieces:
            request.transport.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await asyncio.sleep(pause_s)
        request.transport.write(b"0\r\n\r\n")
        await asyncio.sleep(pause_s)
        request.transport.close()
        return web.Response()

    return answering


@pytest.mark.parametrize("content_type", [None, "text/plain", "text/html; charset=utf-8", "application/octet-stream"])
async def test_it_is_a_stream_by_its_first_bytes(
    bad: EchoEngine, start_system: StartSystem, content_type: str | None
) -> None:
    bad.respond(_talk(content_type, [TOKEN, TOKEN, DONE]))
    system = await start_system(bad)
    async with system.session.post(system.url + CHAT_PATH, json=ASKED | {"stream": True}) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert await response.read() == TOKEN + TOKEN + DONE
    assert len(bad.reached) == 1


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS.keys())
async def test_they_may_come_one_by_one(bad: EchoEngine, start_system: StartSystem, beginning: bytes) -> None:
    whole = beginning + TOKEN + DONE
    bad.respond(
        _talk(
            "text/plain",
            [whole[at : at + 1] for at in range(len(beginning) + 8)] + [whole[len(beginning) + 8 :]],
            0.005,
        )
    )
    status, body = await ask(await start_system(bad), stream=True)
    assert (status, body.removeprefix(b": hello\n\n")) == (200, whole.removeprefix(b": hello\n\n"))


async def test_a_stream_goes_out_as_it_comes(bad: EchoEngine, start_system: StartSystem) -> None:
    is_out = asyncio.Event()

    async def answering(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html"})
        await response.prepare(request)
        await response.write(TOKEN)
        await is_out.wait()
        await response.write_eof(DONE)
        return response

    bad.respond(answering)
    system = await start_system(bad)
    async with system.session.post(system.url + CHAT_PATH, json=ASKED | {"stream": True}) as response:
        assert await response.content.readexactly(len(TOKEN)) == TOKEN
        is_out.set()
        assert await response.read() == DONE


@pytest.mark.parametrize("body", [b"<html>data: {}</html>", b"", b"dat", b"database: x\n\n", b"\n" * 10_000 + TOKEN])
async def test_what_begins_otherwise_has_failed_and_its_type_is_told(
    bad: EchoEngine, start_system: StartSystem, body: bytes
) -> None:
    bad.answer(body, content_type="text/html")
    system = await start_system(bad, worker_max_attempts=1)
    async with system.session.post(system.url + CHAT_PATH, json=ASKED | {"stream": True}) as response:
        assert response.status == 502
        error = await error_of(response)
    assert error["code"] == "engine_broken"
    assert "with what is no JSON object, as 'text/html': " in error["message"]


async def test_that_it_has_no_type_is_told(bad: EchoEngine, start_system: StartSystem) -> None:
    bad.respond(_talk(None, [b"<html>"]))
    system = await start_system(bad, worker_max_attempts=1)
    async with system.session.post(system.url + CHAT_PATH, json=ASKED | {"stream": True}) as response:
        assert response.status == 502
        assert "with what is no JSON object, without a Content-Type: " in (await error_of(response))["message"]


async def test_a_whole_answer_by_another_name_is_passed_on(bad: EchoEngine, start_system: StartSystem) -> None:
    bad.answer(GOOD, content_type="text/plain")
    assert await ask(await start_system(bad), stream=True) == (200, GOOD)


async def test_one_that_is_cut_is_no_whole_one(bad: EchoEngine, start_system: StartSystem) -> None:
    """Where only the end of the connection says that it is over, its events have to say so as well."""
    bad.respond(lambda request: write_until_closed(request, [TOKEN, TOKEN], "text/plain"))
    status, body = await ask(await start_system(bad), stream=True)
    assert (status, body.startswith(TOKEN + TOKEN)) == (200, True)
    assert b"engine_broken" in body
