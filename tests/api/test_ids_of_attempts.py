"""The manager's retries are none of the first attempt's id, wherever the state is."""

from __future__ import annotations

from aiohttp import web

from .conftest import StartEcho, StartPlane, a_request


async def test_an_engine_that_takes_no_id_twice_takes_the_retry(start_plane: StartPlane, start_echo: StartEcho) -> None:
    engine = await start_echo()

    async def failing_once(_: web.Request) -> web.Response:
        return web.json_response({"choices": [{"text": "Hi"}]}, status=200 if len(engine.reached) > 1 else 500)

    engine.respond(failing_once)
    plane = await start_plane()
    plane.register("e1", engine, model="echo-1", wire="openai")
    await plane.ready("e1")
    assert (await plane.manager.execute_request(a_request(model="echo-1"))).output_text == "Hi"
    assert [reached.headers["X-Request-ID"] for reached in engine.reached] == ["r-1", "r-1~2"]
