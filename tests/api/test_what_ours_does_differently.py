"""The thirteen points in which this control plane does more than the one whose names it keeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest
from sagellm_protocol import (
    ChatMessage,
    ErrorCode,
    SamplingParams,
    StreamEventDelta,
    StreamEventEnd,
    StreamEventStart,
)

from sagellm_control import ControlPlaneManager, EngineState, RequestStatus, ScalingManager

from ..flow.conftest import SimulatedEngine
from ..waiting import wait_until
from .conftest import HURRY, TELLS_ALL, Mode, Plane, StartEcho, StartEngine, StartPlane, a_request, prompt_tokens

HELLO = [ChatMessage(role="user", content="Hello")]
OPENAI_REPLY = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 1},
}


@pytest.fixture
async def plane(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Plane, None]:
    for name, value in HURRY.items():
        monkeypatch.setenv(name, value)
    manager = ControlPlaneManager()
    await manager.start()
    yield Plane(manager, Mode.IN_PROCESS)
    await manager.stop()


@pytest.mark.parametrize("argument", ["scheduling_policy", "routing_strategy", "mode"])
def test_1_an_unknown_name_is_refused_and_the_known_ones_are_listed(argument: str) -> None:
    known = {"scheduling_policy": "fifo", "routing_strategy": "least_loaded", "mode": "http"}
    arguments: dict[str, Any] = {argument: "bogus"}
    with pytest.raises(ValueError, match=f"{argument} 'bogus'.*{known[argument]}"):
        ControlPlaneManager(**arguments)


@pytest.mark.parametrize("policy", ["fifo", "priority", "slo_aware", "adaptive", "kv_aware"])
@pytest.mark.parametrize("strategy", ["round_robin", "least_loaded"])
async def test_1_policies_and_strategies_work(policy: str, strategy: str) -> None:
    manager = ControlPlaneManager(policy, strategy)
    for name in ("e1", "e2"):
        manager.register_engine(name, "m", "h", 1, metadata={"pre_verified_healthy": True})
    taken = await manager.schedule_request("r0", "t", "m")
    manager.complete_request("r0", str(taken.engine_id))
    chosen = [str((await manager.schedule_request(f"r{n}", "t", "m")).engine_id) for n in range(1, 5)]
    assert sorted(chosen) == ["e1", "e1", "e2", "e2"]


async def test_1_least_loaded_and_round_robin_differ() -> None:
    chosen: dict[str, list[str]] = {}
    for strategy in ("least_loaded", "round_robin"):
        manager = ControlPlaneManager(routing_strategy=strategy)
        for name in ("e1", "e2"):
            manager.register_engine(name, "m", "h", 1, metadata={"pre_verified_healthy": True})
        info = manager.get_engine("e1")
        assert info is not None
        info.active_requests = 5
        chosen[strategy] = [str((await manager.schedule_request(f"r{n}", "t", "m")).engine_id) for n in range(4)]
    assert chosen == {"least_loaded": ["e2"] * 4, "round_robin": ["e1", "e2", "e1", "e2"]}


def test_2_the_environment_configures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGELLM_CONTROL_MANAGER_SCHEDULING_POLICY", "priority")
    monkeypatch.setenv("SAGELLM_CONTROL_MANAGER_ROUTING_STRATEGY", "least_loaded")
    status = ControlPlaneManager().get_status()
    assert (status["scheduling_policy"], status["routing_strategy"]) == ("priority", "least_loaded")
    assert ControlPlaneManager("fifo").get_status()["scheduling_policy"] == "fifo", "what is given goes before"
    with pytest.raises(ValueError, match="SAGELLM_CONTROL_REDIS_URL"):
        ControlPlaneManager(mode="shared")


async def test_3_a_full_engine_queues(plane: Plane) -> None:
    ready = {"pre_verified_healthy": True}
    plane.manager.register_engine("e1", "m", "127.0.0.1", 1, metadata=ready)
    decisions = [await plane.manager.schedule_request(f"r{n}", "t", "m") for n in range(258)]
    assert [d.status for d in decisions[255:]] == [
        RequestStatus.SCHEDULED,
        RequestStatus.QUEUED,
        RequestStatus.QUEUED,
    ]
    assert [d.queue_position for d in decisions[255:]] == [0, 1, 2]
    assert decisions[-1].estimated_wait_ms > 0


async def test_4_another_engine_before_the_first_token(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane(routing_strategy="round_robin")
    bad, good = await start_engine(fail_rate=1.0), await start_engine()
    plane.register("bad", bad)
    plane.register("good", good)
    await plane.ready("bad", "good")
    for number in range(4):
        assert (await plane.manager.execute_request(a_request(f"r{number}"))).error is None
        events = [event async for event in plane.manager.stream_request(a_request(f"s{number}"))]
        assert isinstance(events[-1], StreamEventEnd)
        assert events[-1].error is None
        assert events[-1].engine_id == "good"
    assert (await bad.state())["faulted"] > 0


async def test_5_one_client_that_ignores_proxies(
    plane: Plane, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    plane.register("e1", await start_engine())
    await plane.ready("e1")
    assert (await plane.manager.execute_request(a_request())).error is None


async def test_5_busy_engines_are_asked_again_when_they_say(plane: Plane, start_engine: StartEngine) -> None:
    engine = await start_engine(fail_rate=1.0, fail_status=429, retry_after_s=1)
    plane.register("e1", engine)
    await plane.ready("e1")
    began = time.monotonic()
    call = asyncio.create_task(plane.manager.execute_request(a_request()))
    await engine.until(faulted=1)
    await engine.faults(fail_rate=0)
    assert (await call).error is None
    assert time.monotonic() - began >= 0.9


async def test_6_everything_reaches_the_engine_and_comes_back(plane: Plane, start_echo: StartEcho) -> None:
    engine = await start_echo()
    plane.register("e1", engine, model="echo-1", wire="openai")
    await plane.ready("e1")
    engine.answer(orjson.dumps(OPENAI_REPLY))
    request = a_request(
        model="echo-1",
        prompt="",
        messages=HELLO,
        temperature=0.5,
        sampling_params=SamplingParams(top_k=3, stop_sequences=["!"]),
        metadata={"priority": "HIGH", "note": "n"},
        kv_budget_tokens=9,
    )
    response = await plane.manager.execute_request(request)
    sent = orjson.loads(engine.reached[-1].body)
    assert sent["messages"] == [{"role": "user", "content": "Hello"}]
    assert (sent["temperature"], sent["kv_budget_tokens"]) == (0.5, 9)
    assert sent["metadata"] == {"priority": "HIGH", "note": "n"}
    if TELLS_ALL:
        assert (sent["top_k"], sent["stop"], sent["sampling_params"]["top_k"]) == (3, ["!"], 3)
    assert engine.reached[-1].headers["X-Request-ID"] == "r-1"
    assert (response.output_text, prompt_tokens(response), response.error) == ("Hi", 7 if TELLS_ALL else None, None)


async def test_6_a_reply_that_cannot_be_read_is_an_error_response(plane: Plane, start_echo: StartEcho) -> None:
    engine = await start_echo()
    plane.register("e1", engine, model="echo-1", wire="openai")
    await plane.ready("e1")
    for reply in (b"no json", b"[]", b'{"choices": []}', b"{}"):
        engine.answer(reply)
        response = await plane.manager.execute_request(a_request(model="echo-1"))
        assert response.finish_reason == "error"
        assert response.error is not None
        assert response.error.code == ErrorCode.UNAVAILABLE


@pytest.mark.parametrize("wire", ["openai", "sagellm"])
@pytest.mark.parametrize("said", [True, False], ids=["said", "found"])
async def test_7_both_wires(plane: Plane, start_engine: StartEngine, wire: str, said: bool) -> None:
    engine = await start_engine(wire=wire)
    plane.register("e1", engine, **({"wire": wire} if said else {}))
    await plane.ready("e1")
    assert (await plane.manager.execute_request(a_request(prompt="", messages=HELLO))).error is None
    with pytest.raises(ValueError, match=r"metadata\['wire'\] 'morse'"):
        plane.register("e2", engine, wire="morse")
    assert plane.manager.get_engine("e2") is None


async def test_8_health(start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGELLM_CONTROL_MANAGER_HEALTH_CHECK_INTERVAL_S", "30")
    manager = ControlPlaneManager()
    plane = Plane(manager, Mode.IN_PROCESS)
    plane.register("before", await start_engine())
    assert plane.register("sure", await start_engine(), pre_verified_healthy=True).state is EngineState.READY
    await manager.start()
    try:
        plane.register("after", await start_engine())
        await plane.ready("before", "after")  # long before the interval
    finally:
        await manager.stop()


async def test_8_an_engine_in_error_comes_back(plane: Plane, start_engine: StartEngine) -> None:
    info = plane.register("e1", await start_engine())
    await plane.ready("e1")
    held = await plane.manager.schedule_request("r", "t", "simulated-1")
    assert held.is_scheduled
    port, info.port = info.port, 1
    await _lose_adapter(plane, "e1")
    await wait_until(lambda: info.state is EngineState.ERROR, what="it is in ERROR")
    assert info.active_requests == 1, "a failed probe gives nothing back"
    info.port = port
    await _lose_adapter(plane, "e1")
    await plane.ready("e1")
    assert info.consecutive_failures == 0


async def _lose_adapter(plane: Plane, engine_id: str) -> None:
    plane.manager._backend.adapters.forget(engine_id)  # type: ignore[attr-defined]


async def test_9_prefill_and_decode_are_separate(plane: Plane, start_echo: StartEcho) -> None:
    prefill, decode = await start_echo(), await start_echo()
    plane.register("p", prefill, model="echo-1", wire="openai", instance_type="prefilling")
    plane.register("d", decode, model="echo-1", wire="openai", instance_type="decoding")
    await plane.ready("p", "d")
    where = {"remote_engine_id": "p", "remote_block_ids": [1, 2], "do_remote_prefill": True}
    prefill.answer(orjson.dumps({**OPENAI_REPLY, "kv_transfer_params": where}))
    decode.answer(orjson.dumps(OPENAI_REPLY))
    response = await plane.manager.execute_request(a_request(model="echo-1", prompt="", messages=HELLO))
    assert response.output_text == "Hi"
    first, second = orjson.loads(prefill.reached[-1].body), orjson.loads(decode.reached[-1].body)
    assert (first["max_tokens"], first["stream"]) == (1, False)
    assert first["kv_transfer_params"]["do_remote_decode"] is True
    assert (second["max_tokens"], second["kv_transfer_params"]) == (5, where)
    assert [info.active_requests for info in plane.manager.list_engines()] == [0, 0]


async def test_10_embeddings_are_balanced_and_counted(plane: Plane, start_engine: StartEngine) -> None:
    engines: list[SimulatedEngine] = []
    for number in range(3):
        engines.append(await start_engine(models=["v"]))
        plane.register(f"v{number}", engines[-1], model="v", engine_kind="embedding")
    plane.register("w", await start_engine(models=["w"]), model="w", engine_kind="embedding")
    await plane.ready("v0", "v1", "v2", "w")
    await asyncio.gather(*(plane.manager.get_embeddings(["x"], "v") for _ in range(6)))
    assert [(await engine.state())["finished"] for engine in engines] == [2, 2, 2]
    with pytest.raises(ValueError, match="No embedding engines available for model u"):
        await plane.manager.get_embeddings(["x"], "u")


async def test_11_a_stream_without_an_end_ends_with_an_error(start_plane: StartPlane, start_echo: StartEcho) -> None:
    plane = await start_plane()
    engine = await start_echo()
    plane.register("e1", engine, model="echo-1", wire="openai")
    await plane.ready("e1")
    chunk = b'data: {"choices": [{"index": 0, "text": "Hal", "finish_reason": null}]}\n\n'
    engine.stream([chunk])
    start, delta, end = [event async for event in plane.manager.stream_request(a_request(model="echo-1"))]
    assert isinstance(start, StreamEventStart)
    assert isinstance(delta, StreamEventDelta)
    assert isinstance(end, StreamEventEnd)
    assert (end.finish_reason, end.content) == ("error", "")
    assert end.error is not None


@pytest.mark.parametrize("chat", [False, True], ids=["prompt", "messages"])
async def test_11_an_engine_that_dies_in_mid_stream_is_replaced(
    start_plane: StartPlane, start_engine: StartEngine, chat: bool
) -> None:
    plane = await start_plane(routing_strategy="round_robin")
    dies = await start_engine(cut_rate=1.0, cut_after_tokens=3)
    plane.register("dies", dies)
    plane.register("lives", await start_engine())
    await plane.ready("dies", "lives")
    asked: dict[str, Any] = {"max_tokens": 8, **({"prompt": "", "messages": HELLO} if chat else {})}
    for number in range(4):
        events = [event async for event in plane.manager.stream_request(a_request(f"r{number}", **asked))]
        start, *deltas, end = events
        assert isinstance(start, StreamEventStart)
        assert isinstance(end, StreamEventEnd)
        assert end.error is None
        said = "".join(event.content for event in deltas if isinstance(event, StreamEventDelta))
        whole = await plane.manager.execute_request(a_request(f"whole{number}", **asked))
        assert end.content == said == whole.output_text
        assert len(end.output_tokens) == 8
        assert end.engine_id == "lives"
    assert (await dies.state())["faulted"] > 0


async def test_12_scaling_without_a_launcher_says_what_to_configure(plane: Plane) -> None:
    with pytest.raises(NotImplementedError, match="launcher"):
        await ScalingManager(plane.manager).scale_up("m")


async def test_13_times_are_aware_and_a_place_is_given_back_once(plane: Plane) -> None:
    info = plane.manager.register_engine("e1", "m", "127.0.0.1", 1, metadata={"pre_verified_healthy": True})
    assert info.created_at.utcoffset() is not None
    for name in ("r1", "r2"):
        await plane.manager.schedule_request(name, "t", "m")
    for _ in range(3):
        plane.manager.complete_request("r1", "e1")
    assert info.active_requests == 1
