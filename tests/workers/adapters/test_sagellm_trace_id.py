"""The trace id that a sageLLM engine is told, whoever made it."""

from __future__ import annotations

import orjson
import pytest
from aiohttp import web

from sagellm_control.wire.trace_context import TraceContext
from sagellm_workers.adapters.sagellm import SageLLMAdapter
from sagellm_workers.http.transport import EngineClient

from ..conftest import Serve, ask

CHAT_BODY = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})


@pytest.mark.parametrize(("trace_id", "told"), [("trace-1", "trace-1"), ("", "req-1")])
@pytest.mark.parametrize("stream", [False, True])
async def test_there_is_always_a_trace_id(
    serve: Serve, client: EngineClient, trace_id: str, told: str, stream: bool
) -> None:
    seen: list[tuple[str | None, str]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.headers.get("X-Trace-ID"), orjson.loads(await request.read())["trace_id"]))
        return web.json_response({"output_text": "Hello"})

    url = await serve({"POST /v1/completions": handler, "POST /v1/completions/stream": handler})
    await ask(SageLLMAdapter(url, client), stream=stream, body=CHAT_BODY, trace=TraceContext(trace_id))
    assert seen == [(told, told)]
