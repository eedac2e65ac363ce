"""An engine object of this process is an engine like any other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sagellm_protocol import (
    Error,
    ErrorCode,
    Metrics,
    Request,
    Response,
    StreamEventDelta,
    StreamEventEnd,
    StreamEventStart,
)

from sagellm_control import ControlPlaneManager, LocalEngineClient
from sagellm_control.manager import shared_engines
from sagellm_control.store.connect import Store
from sagellm_control.store.registrations import register, registrations, unregister
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.say_alive import say_alive, say_gone
from sagellm_control.wire.registration import Registration

from ..waiting import wait_until
from .conftest import Mode, Plane, StartPlane, a_request, schedulers_and_workers


class LocalEngine:
    """An engine object."""

    engine_id = "local-1"

    def __init__(self, error: Error | None = None) -> None:
        self.seen: list[Request] = []
        self.ends: dict[str, Any] = {"metrics": _metrics(), "finish_reason": "error" if error else "stop"}
        self.ends |= {"output_tokens": [1, 2], "error": error}

    async def execute(self, request: Request) -> Response:
        self.seen.append(request)
        return Response(
            request_id=request.request_id,
            trace_id=request.trace_id,
            output_text="Hi there",
            **self.ends,
        )

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        self.seen.append(request)
        ids: dict[str, Any] = {"engine_id": self.engine_id}
        ids |= {"request_id": request.request_id, "trace_id": request.trace_id}
        yield StreamEventStart(**ids, prompt_tokens=3)
        yield StreamEventDelta(**ids, content="Hi ", content_tokens=[1])
        yield StreamEventDelta(**ids, content="there", content_tokens=[2])
        yield StreamEventEnd(**ids, content="Hi there", **self.ends)

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


@pytest.mark.parametrize("code", [ErrorCode.KV_TRANSFER_FAILED, ErrorCode.UNAVAILABLE])
@pytest.mark.parametrize("retryable", [True, False])
async def test_the_error_of_an_engine_object_reaches_the_caller(
    start_plane: StartPlane, code: ErrorCode, retryable: bool
) -> None:
    plane, error = await start_plane(), Error(code=code, message="kv lost", retryable=retryable)
    engine = LocalEngine(error)
    plane.manager.register_engine("local-1", "m", "local", 0, metadata={"engine_instance": engine})
    await plane.ready("local-1")
    assert (await plane.manager.execute_request(a_request(model="m"))).error == error
    assert (len(engine.seen) > 1) == retryable
    engine.seen.clear()
    *_, end = [event async for event in plane.manager.stream_request(a_request("r-2", model="m"))]
    assert isinstance(end, StreamEventEnd)
    assert end.error == error
    goes_on = retryable and plane.mode is Mode.SHARED
    assert (len(engine.seen) > 1) == goes_on, "only workers go on with a stream that has begun, where that may help"


async def test_an_engine_object_is_served_again_when_its_manager_is(start_plane: StartPlane) -> None:
    plane, engine = await start_plane(), LocalEngine()
    plane.manager.register_engine("local-1", "m", "local", 0, metadata={"engine_instance": engine})
    for _ in range(2):
        await plane.ready("local-1")
        assert (await plane.manager.execute_request(a_request(model="m"))).error is None
        await plane.manager.stop()
        await plane.manager.start()
    assert len(engine.seen) == 2


@pytest.mark.parametrize("when", ["before it starts", "after it has started"])
async def test_a_program_that_is_started_again_serves_its_engine_object(
    redis_settings: RedisSettings, store: Store, when: str
) -> None:
    await register(store, Registration("local-1", "m", "local", 0, server="a program that was killed"))
    async with schedulers_and_workers(redis_settings):
        for _ in range(2):
            manager = ControlPlaneManager(redis_url=redis_settings.url, namespace=redis_settings.namespace)
            engine, plane = LocalEngine(), Plane(manager, Mode.SHARED)
            if when == "after it has started":
                await manager.start()
            manager.register_engine("local-1", "m", "local", 0, metadata={"engine_instance": engine})
            await manager.start()
            with pytest.raises(ValueError, match="already registered"):
                manager.register_engine("local-1", "m", "local", 0, metadata={"engine_instance": engine})
            await plane.ready("local-1")
            assert (await manager.execute_request(a_request(model="m"))).error is None
            assert len(engine.seen) == 1
            await manager.stop()
        await unregister(store, "m", "local-1")


async def test_an_id_that_another_process_serves_is_free_when_that_has_gone(
    redis_settings: RedisSettings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_engines, "ANNOUNCE_EVERY", 1)
    await say_alive(store, "other")
    await register(store, Registration("local-1", "m", "local", 0, server="other"))
    await register(store, Registration("local-2", "m", "local", 0, server="other"))
    metadata = {"engine_instance": LocalEngine()}
    async with schedulers_and_workers(redis_settings):
        manager = ControlPlaneManager(redis_url=redis_settings.url, namespace=redis_settings.namespace)
        manager.register_engine("local-1", "m", "local", 0, metadata=metadata)
        await manager.start()
        with pytest.raises(ValueError, match="already registered"):
            manager.register_engine("local-2", "m", "local", 0, metadata=metadata)
        assert {item.server for item in await registrations(store)} == {"other"}
        await say_gone(store, "other")
        plane = Plane(manager, Mode.SHARED)
        await plane.ready("local-1")
        await wait_until(lambda: "local-2" in manager._backend.board.abandoned, what="the other one is free too")
        manager.register_engine("local-2", "m", "local", 0, metadata=metadata)
        await plane.ready("local-1", "local-2")
        for name in ("local-1", "local-2"):
            manager.unregister_engine(name)
        await manager.stop()


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
