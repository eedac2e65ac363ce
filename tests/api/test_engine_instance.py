"""An engine object of this process is an engine like any other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sagellm_protocol import (
    Metrics,
    Request,
    Response,
    StreamEventDelta,
    StreamEventEnd,
    StreamEventStart,
)

from sagellm_control import LocalEngineClient

from .conftest import StartPlane, a_request


class LocalEngine:
    """An engine object."""

    engine_id = "local-1"

    def __init__(self) -> None:
        self.seen: list[Request] = []

    async def execute(self, request: Request) -> Response:
        self.seen.append(request)
        return Response(
            request_id=request.request_id,
            trace_id=request.trace_id,
            output_text="Hi there",
            output_tokens=[1, 2],
            finish_reason="stop",
            metrics=_metrics(),
        )

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        ids: dict[str, Any] = {"engine_id": self.engine_id}
        ids |= {"request_id": request.request_id, "trace_id": request.trace_id}
        yield StreamEventStart(**ids, prompt_tokens=3)
        yield StreamEventDelta(**ids, content="Hi ", content_tokens=[1])
        yield StreamEventDelta(**ids, content="there", content_tokens=[2])
        yield StreamEventEnd(**ids, content="Hi there", output_tokens=[1, 2], finish_reason="stop", metrics=_metrics())

    async def health_check(self) -> bool:
        return True


def _metrics() -> Metrics:
    return Metrics(ttft_ms=12.5, throughput_tps=1.0, peak_mem_mb=0, error_rate=0.0)


async def test_an_engine_object_is_scheduled_like_any_other(start_plane: StartPlane) -> None:
    plane = await start_plane()
    engine = LocalEngine()
    plane.manager.register_engine("local-1", "m", "local", 0, metadata={"engine_instance": engine})
    await plane.ready("local-1")
    response = await plane.manager.execute_request(a_request(model="m", metadata={"x": 1}))
    assert (response.output_text, response.output_tokens, response.metrics.ttft_ms) == ("Hi there", [1, 2], 12.5)
    assert engine.seen[0].metadata == {"x": 1}
    start, *deltas, end = [event async for event in plane.manager.stream_request(a_request("r-2", model="m"))]
    assert isinstance(start, StreamEventStart)
    assert start.prompt_tokens == 3
    assert [delta.content_tokens for delta in deltas if isinstance(delta, StreamEventDelta)] == [[1], [2]]
    assert isinstance(end, StreamEventEnd)
    assert (end.content, end.output_tokens, end.error) == ("Hi there", [1, 2], None)
    with pytest.raises(TypeError, match="engine_instance"):
        plane.manager.register_engine("no", "m", "local", 0, metadata={"engine_instance": object()})


async def test_the_client_of_an_engine_object() -> None:
    client = LocalEngineClient(LocalEngine())
    assert client.engine_id == "local-1"
    assert (await client.execute_request(a_request())).output_text == "Hi there"
    start, first, _, end = [event async for event in client.stream_request(a_request())]
    assert start == {"event": "start", "request_id": "r-1", "trace_id": "t-1", "prompt_tokens": 3}
    assert first == {
        "event": "delta",
        "request_id": "r-1",
        "trace_id": "t-1",
        "content": "Hi ",
        "content_tokens": [1],
    }
    assert list(end) == ["event", "request_id", "trace_id", "content", "output_tokens", "finish_reason", "metrics"]
    assert list(end["metrics"]) == ["ttft_ms", "tbt_ms", "tpot_ms", "throughput_tps", "peak_mem_mb", "error_rate"]
    assert await client.health_check() is True
    await client.close()
    with pytest.raises(AttributeError):
        LocalEngineClient(object())  # type: ignore[arg-type]
