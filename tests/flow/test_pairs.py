"""Engines that hold a request in pairs, as SGLang's do: the whole way, and each side going wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sagellm_control.wire.states import RequestState
from sagellm_control.wire.trace_context import TraceContext

from ..waiting import wait_until
from .asking import CHAT_PATH, chat, error_of, post_chat
from .conftest import SimulatedEngine, StartEngine, StartSystem
from .in_process import IN_TURN, InProcessSystem
from .test_prefill_decode import BOTH_KINDS, ENDLESS, _client, _counts, _whole

P: dict[str, Any] = {"disaggregation": "prefill"}
D: dict[str, Any] = {"disaggregation": "decode"}


async def nothing_is_left(system: InProcessSystem, *engines: SimulatedEngine) -> None:
    """No place is held, and no engine works."""
    await system.until_idle()
    for engine in engines:
        await engine.until(running=0, waiting=0)


@BOTH_KINDS
async def test_two_engines_hold_each_request(
    start_engine: StartEngine, start_system: StartSystem, stream: bool
) -> None:
    p, d1, d2 = await start_engine(**P), await start_engine(**D), await start_engine(**D)
    system = await start_system(p, d1, d2)
    roles = {view.url: view.role for view in await system.engine_views()}
    assert roles == {p.url: "prefilling", d1.url: "decoding", d2.url: "decoding"}, "as they were started"
    await asyncio.gather(*(_whole(system, f"prompt {n} " * 20, stream=stream) for n in range(12)))
    read, *fetched = await _counts(p, d1, d2)
    assert read == (12, 12, 0)
    assert [counts[:2] for counts in fetched] == [(0, 0), (0, 0)]
    assert sum(counts[2] for counts in fetched) == 12
    assert all(counts[2] for counts in fetched), "both decode"
    await nothing_is_left(system, p, d1, d2)


async def test_the_prompt_belongs_to_the_trace_of_its_request(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    system = await start_system(await start_engine(**P), await start_engine(**D))
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = {"X-Request-ID": "whole", "X-Trace-ID": "t", "traceparent": traceparent, "tracestate": "a=1"}
    async with post_chat(system, sent) as response:
        assert response.status == 200
    db, keys = system.store.commands, system.store.keys.pool("simulated-1")
    server = await system.store.node_of(keys.record("whole"))
    prompts = [name async for name in server.scan_iter(match=keys.record("prompt-*"), _type="hash")]
    records = [keys.record("whole"), *prompts]
    traces = [TraceContext.decode(await db.hget(name, "trace")) for name in records]
    assert traces == [TraceContext("t", traceparent, "a=1")] * 2


async def test_more_requests_than_places(start_engine: StartEngine, start_system: StartSystem) -> None:
    """Whoever waits for a prompt to be read holds a place of the decoding engine, and none of the prefilling one."""
    p, d = await start_engine(slots=1, **P), await start_engine(slots=3, tpot_ms=2, **D)
    system = await start_system(p, d)
    await asyncio.gather(*(_whole(system, f"prompt {n}", stream=n % 2 == 0) for n in range(20)))
    assert (await p.state())["peak_running"] == 1
    assert (await d.state())["peak_running"] <= 3
    await nothing_is_left(system, p, d)


async def test_a_general_engine_takes_whole_requests_beside_a_pair(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    p, d, g = await start_engine(slots=2, **P), await start_engine(slots=2, **D), await start_engine(slots=2)
    system = await start_system(p, d, g)
    await asyncio.gather(*(_whole(system, f"prompt {n}", stream=True) for n in range(24)))
    (read, _, _), (_, _, fetched), (whole, _, _) = await _counts(p, d, g)
    assert read == fetched > 0
    assert whole > 0
    assert read + whole == 24


async def test_nobody_decodes_without_an_engine_that_reads(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    d = await start_engine(**D)
    system = await start_system(d)
    body = chat("alone")
    headers = {"X-Request-ID": "alone", "X-Request-Timeout-Ms": "500"}
    async with system.session.post(system.url + CHAT_PATH, json=body, headers=headers) as response:
        assert response.status == 408
    assert (await d.state())["total_requests"] == 0
    await system.until_idle()


@pytest.mark.parametrize("bad_one", ["prefill", "decode"])
@BOTH_KINDS
async def test_a_side_that_fails_costs_an_attempt_of_both(
    start_engine: StartEngine, start_system: StartSystem, stream: bool, bad_one: str
) -> None:
    broken = {"fail_rate": 1.0}
    bad, p, d = await start_engine(disaggregation=bad_one, **broken), await start_engine(**P), await start_engine(**D)
    system = await start_system(bad, p, d, **IN_TURN)
    for n in range(4):
        await _whole(system, f"prompt {n}", stream=stream)
    assert (await bad.state())["faulted"]
    await nothing_is_left(system, bad, p, d)


@BOTH_KINDS
async def test_a_busy_reader_means_wait(start_engine: StartEngine, start_system: StartSystem, stream: bool) -> None:
    """No try is used up, and the engine that decodes is left alone by nobody."""
    busy: dict[str, Any] = {"fail_rate": 1.0, "fail_status": 503, "retry_after_s": 30}
    bad, p, d = await start_engine(**busy, **P), await start_engine(**P), await start_engine(**D)
    system = await start_system(bad, p, d, worker_max_attempts=1, **IN_TURN)
    for n in range(4):
        await _whole(system, f"prompt {n}", stream=stream)
    assert (await bad.state())["faulted"] == 1, "it was asked again while it wanted to be left alone"
    reasons = {view.url: view.reason for view in await system.engine_views()}
    assert reasons[bad.url] == "it asked for a pause of 30 s"
    assert not reasons[d.url]
    await nothing_is_left(system, bad, p, d)


async def test_readers_that_stay_busy_end_a_request_with_their_own_answer(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    busy: dict[str, Any] = {"fail_rate": 1.0, "fail_status": 429, "retry_after_s": 7}
    p, d = await start_engine(**busy, **P), await start_engine(**D)
    system = await start_system(p, d, worker_longest_pause_s=0.05, worker_busy_patience_s=0.2)
    async with system.session.post(system.url + CHAT_PATH, json=chat("busy")) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert (await response.json())["error"]["code"] == "rate_limit_exceeded"
        view = await system.until(response.headers["X-Request-ID"], RequestState.FINISHED)
    assert (view.outcome, view.fields["failures"]) == ("failed", "3")
    await nothing_is_left(system, p, d)


async def test_a_decoder_that_is_lost_in_the_middle_of_the_answer(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    p = await start_engine(**P)
    bad, good = await start_engine(tpot_ms=5, cut_rate=1, cut_after_tokens=5, **D), await start_engine(tpot_ms=5, **D)
    system = await start_system(p, bad, good, **IN_TURN)
    for n in range(3):
        await _whole(system, f"prompt {n}", stream=True, tokens=12)
    assert (await _counts(p))[0][0] > 3, "what it goes on with has been read again"
    await nothing_is_left(system, p, bad, good)


async def test_what_is_refused_is_refused(start_engine: StartEngine, start_system: StartSystem) -> None:
    p, d = await start_engine(**P), await start_engine(**D)
    system = await start_system(p, d)
    async with system.session.post(system.url + CHAT_PATH, json=chat("no", max_tokens=-1)) as response:
        assert response.status == 400
        assert "max_tokens" in (await error_of(response))["message"]
    await nothing_is_left(system, p, d)


@pytest.mark.parametrize("slow", ["prefill", "decode"])
async def test_a_client_that_leaves_frees_both(start_engine: StartEngine, start_system: StartSystem, slow: str) -> None:
    p = await start_engine(**P, **({"prefill_tokens_per_s": 1, "prefill_chunk_tokens": 1} if slow == "prefill" else {}))
    d = await start_engine(**D, **({"tpot_ms": 20} if slow == "decode" else {}))
    system = await start_system(p, d)
    client = _client(system, "leaver", stream=True, **ENDLESS)
    await system.until("leaver", RequestState.RUNNING)
    await (p if slow == "prefill" else d).until(running=1)
    client.cancel()
    assert await system.until_outcome("leaver") == "cancelled"
    await nothing_is_left(system, p, d)


async def test_a_prompt_whose_request_has_moved_on_is_dropped(
    start_engine: StartEngine, start_system: StartSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker of the decoding engine died: it cannot say any more that nobody needs the prompt."""
    monkeypatch.setattr("sagellm_workers.pairs.paired_prefill.LOOK_EVERY_S", 0.05)

    async def says_nothing(*_: object) -> None:
        """As a dead worker."""

    monkeypatch.setattr("sagellm_workers.pairs.paired_decode.Prompt.drop", says_nothing)
    p = await start_engine(prefill_tokens_per_s=1, prefill_chunk_tokens=1, **P)
    d = await start_engine(**D)
    system = await start_system(p, d)
    client = _client(system, "gone", stream=True, **ENDLESS)
    await p.until(running=1)
    client.cancel()
    assert await system.until_outcome("gone") == "cancelled"

    async def free() -> bool:
        return (await p.state())["running"] == 0

    await wait_until(free, what="the prompt is read no further")
    await nothing_is_left(system, p, d)
