"""Prefill on one engine, decode on another: the whole way, and each of its stages going wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from sagellm_control.wire.states import RequestState

from ..waiting import wait_until
from .asking import CHAT_PATH, MODEL, chat, expected_text
from .conftest import SimulatedEngine, StartEcho, StartEngine, StartSystem
from .in_process import IN_TURN, InProcessSystem
from .test_takeover import check_one_stream, text_of
from .test_takeover import stream as stream_of

ENDLESS = {"max_tokens": 100_000}
BOTH_KINDS = pytest.mark.parametrize("stream", [False, True])


async def _counts(*engines: SimulatedEngine) -> list[tuple[int, int, int]]:
    """Of each engine: prompts read, of those kept for others, and fetched from others."""
    states = [await engine.state() for engine in engines]
    return [(s["prompts_read"], s["prefills_kept"], s["prefills_fetched"]) for s in states]


def _roles(prefilling: list[SimulatedEngine], decoding: list[SimulatedEngine]) -> dict[str, str]:
    return {e.url: "prefilling" for e in prefilling} | {e.url: "decoding" for e in decoding}


async def _whole(system: InProcessSystem, text: str, *, stream: bool, tokens: int = 6, **fields: Any) -> None:
    """Ask, and check the whole answer."""
    body = chat(text, max_tokens=tokens, **fields)
    if stream:
        events = await stream_of(system, body)
        check_one_stream(events)
        assert text_of(events) == expected_text(text, tokens)
        return
    async with system.session.post(system.url + CHAT_PATH, json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
    assert answer["choices"][0]["message"]["content"] == expected_text(text, tokens)
    assert answer["usage"]["completion_tokens"] == tokens
    assert answer["usage"]["prompt_tokens"] > 0
    assert "kv_transfer_params" not in answer


def _client(system: InProcessSystem, request_id: str, **fields: Any) -> asyncio.Task[bytes]:
    async def ask() -> bytes:
        headers = {"X-Request-ID": request_id}
        async with system.session.post(system.url + CHAT_PATH, json=chat("x", **fields), headers=headers) as response:
            return await response.read()

    return asyncio.create_task(ask(), name=request_id)


@BOTH_KINDS
async def test_one_engine_reads_and_others_answer(
    start_engine: StartEngine, start_system: StartSystem, stream: bool
) -> None:
    p, d1, d2 = [await start_engine() for _ in range(3)]
    system = await start_system(p, d1, d2, roles=_roles([p], [d1, d2]))
    await asyncio.gather(*(_whole(system, f"prompt {n} " * 20, stream=stream) for n in range(12)))
    read, *fetched = await _counts(p, d1, d2)
    assert read == (12, 12, 0)
    assert [counts[:2] for counts in fetched] == [(0, 0), (0, 0)]
    assert sum(counts[2] for counts in fetched) == 12
    assert all(counts[2] for counts in fetched), "both decode"
    assert (await p.state())["generated_tokens"] == 12
    await system.until_idle()
    views = {view.url: view.role for view in await system.engine_views()}
    assert views == {p.url: "prefilling", d1.url: "decoding", d2.url: "decoding"}


async def test_a_general_engine_takes_whole_requests_beside_them(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    p, d, g = [await start_engine(slots=2) for _ in range(3)]
    system = await start_system(p, d, g, roles=_roles([p], [d]))
    await asyncio.gather(*(_whole(system, f"prompt {n}", stream=n % 2 == 0) for n in range(24)))
    (read, kept, _), (decoder_read, _, fetched), (whole, _, fetched_too) = await _counts(p, d, g)
    assert (read, decoder_read, kept) == (kept, 0, fetched + fetched_too)
    assert kept
    assert whole
    assert read + whole == 24


async def test_what_asks_for_more_than_one_answer_is_read_where_it_is_answered(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    p, d = await start_engine(), await start_engine()
    system = await start_system(p, d, roles=_roles([p], [d]))
    async with system.session.post(system.url + CHAT_PATH, json=chat("two", max_tokens=2, n=2)) as response:
        assert len((await response.json())["choices"]) == 2
    assert await _counts(p, d) == [(0, 0, 0), (1, 0, 0)]


async def test_embeddings_are_not_separated(start_engine: StartEngine, start_system: StartSystem) -> None:
    p, d, g = [await start_engine() for _ in range(3)]
    system = await start_system(p, d, g, roles=_roles([p], [d]))
    body = {"model": MODEL, "input": "some text"}
    for _ in range(3):
        async with system.session.post(f"{system.url}/v1/embeddings", json=body) as response:
            assert response.status == 200
    assert [(await engine.state())["total_requests"] for engine in (p, d, g)] == [0, 0, 3]


@BOTH_KINDS
async def test_a_decode_that_fails_is_prefilled_again_and_goes_elsewhere(
    start_engine: StartEngine, start_system: StartSystem, stream: bool
) -> None:
    p, bad, good = await start_engine(), await start_engine(fail_rate=1), await start_engine()
    system = await start_system(p, bad, good, roles=_roles([p], [bad, good]), **IN_TURN)
    for n in range(4):
        await _whole(system, f"prompt {n}", stream=stream)
    failed = (await bad.state())["faulted"]
    assert failed
    assert await _counts(p, good) == [(4 + failed, 4 + failed, 0), (0, 0, 4)]
    await system.until_idle()


async def test_a_decoder_that_is_lost_in_the_middle_of_the_answer(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    p, bad, good = [
        await start_engine(tpot_ms=5, **faults) for faults in ({}, {"cut_rate": 1, "cut_after_tokens": 5}, {})
    ]
    system = await start_system(p, bad, good, roles=_roles([p], [bad, good]), **IN_TURN)
    for n in range(3):
        await _whole(system, f"prompt {n}", stream=True, tokens=12)
    assert (await bad.state())["faulted"]
    assert (await _counts(good))[0][0] == 0, "what it goes on with has been read by the prefilling engine, too"


async def test_a_prefill_that_fails_is_tried_on_another_engine(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    bad, good, d = await start_engine(fail_rate=1), await start_engine(), await start_engine()
    system = await start_system(bad, good, d, roles=_roles([bad, good], [d]), **IN_TURN)
    for n in range(4):
        await _whole(system, f"prompt {n}", stream=True)
    assert (await bad.state())["faulted"]
    assert await _counts(good, d) == [(4, 4, 0), (0, 0, 4)]


async def test_what_the_prefilling_engine_refuses_is_refused(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    p, d = await start_engine(), await start_engine()
    system = await start_system(p, d, roles=_roles([p], [d]))
    async with system.session.post(system.url + CHAT_PATH, json=chat(seed="not a number")) as response:
        assert response.status == 400
        assert "seed" in await response.text()
    assert (await d.state())["total_requests"] == 0


async def test_cancelled_while_its_prompt_is_read(start_engine: StartEngine, start_system: StartSystem) -> None:
    p, d = await start_engine(prefill_tokens_per_s=1, prefill_chunk_tokens=1), await start_engine()
    system = await start_system(p, d, roles=_roles([p], [d]))
    client = _client(system, "r")
    await system.until("r", RequestState.RUNNING)
    await p.until(running=1)
    client.cancel()
    assert await system.until_outcome("r") == "cancelled"
    await p.until(running=0, aborted=1)
    assert (await d.state())["total_requests"] == 0
    await system.until_idle()


async def test_cancelled_between_the_stages_and_while_it_decodes(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    p, d = await start_engine(), await start_engine(slots=1, tpot_ms=20)
    system = await start_system(p, d, roles=_roles([p], [d]))
    first = _client(system, "first", **ENDLESS)
    await d.until(running=1)
    second = _client(system, "second", **ENDLESS)

    async def between() -> bool:
        view = await system.find("second")
        return view is not None and view.state is RequestState.WAITING and view.fields.get("stage") == "decode"

    await wait_until(between, what="its prompt has been read, and it waits for the decoder")
    async with system.session.get(f"{system.url}/v1/requests/second/explain") as response:
        explained = await response.json()
    assert "engine that decodes" in explained["waits_for"]
    second.cancel()
    assert await system.until_outcome("second") == "cancelled"
    first.cancel()
    assert await system.until_outcome("first") == "cancelled"
    await d.until(running=0, aborted=1)
    await system.until_idle()
    await _whole(system, "the places are free", stream=True)


async def test_with_nobody_who_decodes_it_waits_and_says_so(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    p, d = await start_engine(), await start_engine()
    system = await start_system(p, roles=_roles([p], []))
    client = _client(system, "r", max_tokens=3)
    await system.until("r", RequestState.WAITING)
    async with system.session.get(f"{system.url}/v1/requests/r/explain") as response:
        explained = await response.json()
    assert explained["waits_for"] == "an engine that decodes: none is READY"
    assert [engine["why"] for engine in explained["engines"]] == ["its role is prefilling"]
    assert (await p.state())["total_requests"] == 0
    async with system.worker(d.url, role="decoding"):
        async with asyncio.timeout(10):
            answer = orjson.loads(await client)
        assert answer["choices"][0]["message"]["content"] == expected_text("x", 3)
    assert await _counts(p, d) == [(1, 1, 0), (0, 0, 1)]


async def test_engines_without_a_connector_read_the_prompt_again(
    start_echo: StartEcho, start_system: StartSystem
) -> None:
    p, d = await start_echo(), await start_echo()
    p.answer(b'{"choices":[]}')
    d.answer(b'{"good":true}')
    system = await start_system(p, d, roles={p.url: "prefilling", d.url: "decoding"})
    body = b'{"model":"echo-1","max_tokens": 7,"messages":[{"role":"user","content":"hi"}]}'
    headers = {"Content-Type": "application/json"}
    async with system.session.post(system.url + CHAT_PATH, data=body, headers=headers) as response:
        assert await response.read() == b'{"good":true}'
    assert orjson.loads(p.reached[0].body)["max_tokens"] == 1
    assert d.reached[0].body == body, "as the client sent it"
