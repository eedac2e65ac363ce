"""Failure injection: by header, by rate, switched on while it runs; and the same draws for the same seed."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from sagellm_control.simulated_engine import FaultSettings, answer_tokens
from sagellm_control.simulated_engine.faults import FAULT_HEADER, Faults

from .conftest import WAIT_LIMIT_S, RunningEngine, StartEngine, chat

CHAT = "/v1/chat/completions"


async def read_until_cut(engine: RunningEngine, fault: str, *, stream: bool = True) -> bytes:
    """What arrives before the connection breaks, as it must."""
    got = b""
    body = chat("hi", max_tokens=9, stream=stream)
    headers = {FAULT_HEADER: fault}
    try:
        async with engine.session.post(engine.url + CHAT, json=body, headers=headers) as response:
            async for data in response.content.iter_any():
                got += data
    except aiohttp.ClientError:
        return got
    pytest.fail(f"the connection was not cut after {got!r}")


async def test_fail(start_engine: StartEngine) -> None:
    engine = await start_engine(fail_status=502)
    status, answer = await engine.post(CHAT, chat(), X_Simulate_Fault="fail")
    assert (status, answer["error"]["type"]) == (502, "server_error")
    assert answer["error"]["message"] == "simulated fault: 502 Bad Gateway"
    assert (await engine.post(CHAT, chat()))[0] == 200
    state = await engine.until(faulted=1, finished=1)
    assert state["faults"] == {"fail": 1}


@pytest.mark.parametrize(("status", "retry_after"), [(429, "7"), (503, "7"), (500, None), (418, None)])
async def test_retry_after(start_engine: StartEngine, status: int, retry_after: str | None) -> None:
    engine = await start_engine(retry_after_s=7)
    headers = {FAULT_HEADER: f"status={status}"}
    async with engine.session.post(engine.url + CHAT, json=chat(), headers=headers) as response:
        assert response.status == status
        assert response.headers.get("Retry-After") == retry_after


async def test_cut_sends_so_many_tokens_and_no_more(start_engine: StartEngine) -> None:
    engine = await start_engine(cut_after_tokens=3)
    got = await read_until_cut(engine, "cut")
    assert got.count(b'"content"') == 3
    assert got.endswith(b"\n\n")
    assert b"DONE" not in got
    assert (await read_until_cut(engine, "cut=5")).count(b'"content"') == 5
    assert await read_until_cut(engine, "cut=0") == b""
    assert (await read_until_cut(engine, "cut=100")).count(b'"content"') == 9
    state = await engine.until(faulted=4, running=0)
    assert state["faults"] == {"cut": 4}


async def test_cut_of_a_whole_answer_sends_nothing(start_engine: StartEngine) -> None:
    engine = await start_engine()
    assert await read_until_cut(engine, "cut", stream=False) == b""
    body = {"model": "simulated-1", "input": "a"}
    with pytest.raises(aiohttp.ClientError):
        await engine.post("/v1/embeddings", body, X_Simulate_Fault="cut")


async def test_hang_is_never_answered_and_takes_no_slot(start_engine: StartEngine) -> None:
    engine = await start_engine(slots=1)
    hanging = asyncio.create_task(engine.post(CHAT, chat(), X_Simulate_Fault="hang"))
    state = await engine.until(total_requests=1)
    assert (state["running"], state["waiting"]) == (0, 0)
    assert (await engine.post(CHAT, chat()))[0] == 200
    assert not hanging.done()
    hanging.cancel()
    await engine.until(aborted=1)


async def test_garbage(start_engine: StartEngine) -> None:
    engine = await start_engine()
    headers = {FAULT_HEADER: "garbage"}
    for stream, kind in ((False, "application/json"), (True, "text/event-stream")):
        body = chat(stream=stream)
        async with engine.session.post(engine.url + CHAT, json=body, headers=headers) as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith(kind)
            raw = await response.read()
        assert b"DONE" not in raw
        assert raw


async def test_header_that_asks_for_something_else(start_engine: StartEngine) -> None:
    engine = await start_engine()
    for header in ("explode", "status=200", "status=x", "cut=-1", "hang=3", ""):
        status, answer = await engine.post(CHAT, chat(), X_Simulate_Fault=header)
        assert status == 400
        assert answer["error"]["param"] == FAULT_HEADER
        assert "status=<400 to 599>" in answer["error"]["message"]


async def test_faults_are_switched_while_it_runs(start_engine: StartEngine) -> None:
    engine = await start_engine(retry_after_s=4)
    status, now = await engine.post("/simulated/faults", {"fail_rate": 1, "fail_status": 503})
    assert (status, now["fail_rate"], now["retry_after_s"]) == (200, 1, 4)
    assert (await engine.post(CHAT, chat()))[0] == 503
    assert (await engine.post("/v1/embeddings", {"model": "simulated-1", "input": "a"}))[0] == 503
    await engine.post("/simulated/faults", {"fail_rate": 0})
    assert (await engine.post(CHAT, chat()))[0] == 200
    assert (await engine.get("/simulated/faults"))["fail_status"] == 503


@pytest.mark.parametrize(
    ("change", "param", "reason"),
    [
        ({"fail_rat": 1}, "fail_rat", "known: fail_rate, fail_status"),
        ({"fail_rate": 2}, "fail_rate", "less than or equal to 1"),
        ({"fail_rate": 0.6, "hang_rate": 0.6}, None, "at most 1"),
    ],
)
async def test_wrong_switch_is_refused_and_changes_nothing(
    start_engine: StartEngine, change: dict[str, object], param: str | None, reason: str
) -> None:
    engine = await start_engine()
    status, answer = await engine.post("/simulated/faults", change)
    assert (status, answer["error"]["param"]) == (400, param)
    assert reason in answer["error"]["message"]
    assert (await engine.get("/simulated/faults"))["fail_rate"] == 0


def test_same_seed_same_faults_and_rates_are_met() -> None:
    settings = FaultSettings(fail_rate=0.2, hang_rate=0.1, cut_rate=0.3, garbage_rate=0.1, fault_seed=42)
    first, second = Faults(settings), Faults(settings)
    kinds = [fault and fault.kind for fault in (first.choose(None) for _ in range(5000))]
    assert kinds == [fault and fault.kind for fault in (second.choose(None) for _ in range(5000))]
    shares = {kind.value: count / 5000 for kind, count in first.made.items()}
    assert shares == pytest.approx({"fail": 0.2, "hang": 0.1, "cut": 0.3, "garbage": 0.1}, abs=0.03)
    first.change({"fault_seed": 42})
    assert kinds[:50] == [fault and fault.kind for fault in (first.choose(None) for _ in range(50))]


async def test_rates_reach_requests(start_engine: StartEngine) -> None:
    engine = await start_engine(fail_rate=0.5, fault_seed=1)
    statuses = [(await engine.post(CHAT, chat(max_tokens=1)))[0] for _ in range(40)]
    expected = Faults(FaultSettings(fail_rate=0.5, fault_seed=1))
    assert statuses == [500 if expected.choose(None) else 200 for _ in range(40)]


async def test_after_a_cut_the_answer_can_be_had_again(start_engine: StartEngine) -> None:
    engine = await start_engine()
    await read_until_cut(engine, "cut=2")
    async with asyncio.timeout(WAIT_LIMIT_S):
        _, answer = await engine.post(CHAT, chat("hi", max_tokens=9))
    assert answer["choices"][0]["message"]["content"] == "".join(answer_tokens("hi", 9))
