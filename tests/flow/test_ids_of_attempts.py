"""An engine that knows the id of an earlier attempt, and takes none twice, does not refuse a later one for that."""

from __future__ import annotations

import orjson
import pytest
from aiohttp import web

from sagellm_control.store.settings import RedisSettings

from .asking import CHAT_PATH
from .conftest import GOOD, StartEcho, StartSystem
from .echo_engine import EchoEngine
from .in_process import WORKER, InProcessSystem, in_process_system

ASKED = {"model": "echo-1", "messages": [{"role": "user", "content": "hi"}]}
WHERE = {"remote_engine_id": "p", "remote_block_ids": [1]}


def _takes_no_id_twice(engine: EchoEngine, *, failures: int = 0, answer: bytes = GOOD) -> None:
    """As vLLM, which takes the header for the id of the request; it fails the first ones."""
    known: set[str] = set()

    async def answering(request: web.Request) -> web.Response:
        request_id = request.headers["X-Request-ID"]
        if request_id in known:
            error = {"message": f"Request id {request_id} already running", "type": "BadRequestError", "code": 400}
            return web.json_response({"object": "error", **error}, status=400)
        known.add(request_id)
        if len(known) <= failures:
            return web.json_response({"error": {"message": "out of memory"}}, status=500)
        return web.Response(body=answer, content_type="application/json")

    engine.respond(answering)


def _ids(engine: EchoEngine) -> list[str]:
    return [reached.headers["X-Request-ID"] for reached in engine.reached]


async def _ask(system: InProcessSystem, request_id: str) -> tuple[int, bytes]:
    headers = {"X-Request-ID": request_id}
    async with system.session.post(system.url + CHAT_PATH, json=ASKED, headers=headers) as response:
        assert response.headers["X-Request-ID"] == request_id
        return response.status, await response.read()


async def test_a_retry_on_the_same_engine(bad: EchoEngine, start_system: StartSystem) -> None:
    _takes_no_id_twice(bad, failures=2)
    system = await start_system(bad, worker_max_attempts=3)
    assert await _ask(system, "job") == (200, GOOD)
    assert _ids(bad) == ["job", "job~2", "job~3"]


async def test_a_decode_has_the_id_of_the_prefill_that_it_follows(
    start_echo: StartEcho, start_system: StartSystem
) -> None:
    """Some KV connectors find the blocks by it."""
    p, d = await start_echo(), await start_echo()
    _takes_no_id_twice(p, answer=orjson.dumps({"choices": [], "kv_transfer_params": WHERE}))
    _takes_no_id_twice(d, failures=1)
    system = await start_system(p, d, roles={p.url: "prefilling", d.url: "decoding"})
    assert await _ask(system, "job") == (200, GOOD)
    assert _ids(p) == _ids(d) == ["job", "job~3"]
    assert all(orjson.loads(reached.body)["kv_transfer_params"] == WHERE for reached in d.reached)


@pytest.mark.parametrize("status", [500, 422])
async def test_a_gateway_behind_a_gateway_passes_on_what_the_engine_says(
    bad: EchoEngine, start_system: StartSystem, redis_settings: RedisSettings, status: int
) -> None:
    error = b'{"error":{"message":"out of memory"}}'
    bad.answer(error, status=status)
    inner = await start_system(bad, worker_max_attempts=2)
    elsewhere = redis_settings.model_copy(update={"namespace": f"{redis_settings.namespace}-outer"})
    worker = WORKER.model_copy(update={"wire": "openai"})
    async with in_process_system(elsewhere, [inner.url], worker=worker) as outer:
        assert await _ask(outer, "job") == (status, error)


async def test_a_request_called_as_a_later_attempt_of_another(bad: EchoEngine, start_system: StartSystem) -> None:
    _takes_no_id_twice(bad, failures=1)
    system = await start_system(bad, worker_max_attempts=2)
    assert await _ask(system, "job") == (200, GOOD)
    assert await _ask(system, "job~2") == (200, GOOD)
    assert _ids(bad) == ["job", "job~2", "job~2~1"]
