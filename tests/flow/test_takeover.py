"""An engine is lost with half an answer out: another one goes on, and the client sees one stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import openai
import pytest

from sagellm_control.simulated_engine import answer_tokens
from sagellm_control.wire.states import RequestState

from ..waiting import wait_until
from .asking import CHAT_PATH, MODEL, chat, data, expected_text
from .conftest import SimulatedEngine, StartEngine, StartSystem
from .in_process import IN_TURN, InProcessSystem

TEXT_PATH = "/v1/completions"
SLOW: dict[str, Any] = {"tpot_ms": 5}
"""So that the client has tokens before the cut: what nobody has seen may be made again."""


@pytest.fixture
async def broken(start_engine: StartEngine) -> SimulatedEngine:
    """Breaks every answer off after five tokens."""
    return await start_engine(cut_rate=1, cut_after_tokens=5, **SLOW)


@pytest.fixture
async def sound(start_engine: StartEngine) -> SimulatedEngine:
    return await start_engine(**SLOW)


@pytest.fixture
async def system(broken: SimulatedEngine, sound: SimulatedEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(broken, sound, **IN_TURN)


async def stream(system: InProcessSystem, body: dict[str, Any], path: str = CHAT_PATH, **headers: str) -> list[Any]:
    async with system.session.post(system.url + path, json={**body, "stream": True}, headers=headers) as response:
        assert response.status == 200, await response.text()
        return [event async for event in data(response)]


async def _until_broken(system: InProcessSystem, broken: SimulatedEngine, ask: Any) -> list[Any]:
    """Ask until an answer began on the engine that breaks off."""
    for _ in range(4):
        before = (await broken.state())["faulted"]
        events = await ask()
        if (await broken.state())["faulted"] > before:
            return events
    raise AssertionError("no request reached the engine that breaks off")


def check_one_stream(events: Sequence[Any]) -> None:
    """One id, time and model; one role; one finish reason behind all text; one end."""
    *chunks, end = events
    assert end == "[DONE]"
    assert "[DONE]" not in chunks
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    roles = [choice["delta"]["role"] for choice in choices if "role" in choice.get("delta", {})]
    assert len(roles) <= 1
    reasons = [choice["finish_reason"] for choice in choices]
    assert [reason for reason in reasons if reason] == reasons[-1:]


def text_of(events: Sequence[Any]) -> str:
    pieces = [event["choices"][0] for event in events if event != "[DONE]" and event.get("choices")]
    return "".join(piece.get("text") or piece.get("delta", {}).get("content") or "" for piece in pieces)


def error_at_the_end(events: Sequence[Any]) -> dict[str, Any]:
    """The error that ends a stream; nothing is behind it, and no other one before it."""
    *chunks, last = events
    assert set(last) == {"error"}, events
    assert all("error" not in chunk and chunk != "[DONE]" for chunk in chunks)
    return last["error"]


async def test_a_chat_goes_on(system: InProcessSystem, broken: SimulatedEngine) -> None:
    events = await _until_broken(system, broken, lambda: stream(system, chat("tides", max_tokens=30)))
    check_one_stream(events)
    assert text_of(events) == expected_text("tides", 30)
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    await system.until_idle()


async def test_a_chat_without_a_limit_ends_where_it_would_have(
    system: InProcessSystem, broken: SimulatedEngine
) -> None:
    events = await _until_broken(system, broken, lambda: stream(system, chat("tides")))
    check_one_stream(events)
    assert text_of(events) == expected_text("tides", 32)
    assert events[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("prompt", ["once upon a time", ["once upon a time"]])
async def test_a_completion_goes_on(system: InProcessSystem, broken: SimulatedEngine, prompt: object) -> None:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 30}
    events = await _until_broken(system, broken, lambda: stream(system, body, TEXT_PATH))
    check_one_stream(events)
    assert text_of(events) == "".join(answer_tokens("once upon a time", 30))


async def test_a_message_that_is_to_be_continued_anyway(system: InProcessSystem, broken: SimulatedEngine) -> None:
    begun = "".join(answer_tokens("tides", 3))
    messages = [{"role": "user", "content": "tides"}, {"role": "assistant", "content": begun}]
    body = {"model": MODEL, "messages": messages, "continue_final_message": True, "max_tokens": 20}
    events = await _until_broken(system, broken, lambda: stream(system, body))
    check_one_stream(events)
    assert text_of(events) == "".join(answer_tokens("tides", 20, start=3))


@pytest.mark.parametrize("path", [CHAT_PATH, TEXT_PATH])
async def test_usage_is_counted_once(system: InProcessSystem, broken: SimulatedEngine, path: str) -> None:
    asked = "tell me everything about tides"
    fields: dict[str, Any] = {"max_tokens": 30, "stream_options": {"include_usage": True}}
    body = chat(asked, **fields) if path == CHAT_PATH else {"model": MODEL, "prompt": asked, **fields}
    events = await _until_broken(system, broken, lambda: stream(system, body, path))
    check_one_stream(events)
    counts = [event["usage"] for event in events[:-1] if event.get("usage")]
    assert counts == [{"prompt_tokens": 7, "completion_tokens": 30, "total_tokens": 37}]
    assert events[-2]["choices"] == []


@pytest.mark.parametrize("include_usage", [False, True])
async def test_one_that_broke_off_behind_its_last_token(
    system: InProcessSystem, broken: SimulatedEngine, include_usage: bool
) -> None:
    body = chat("tell me everything about tides", max_tokens=5, stream_options={"include_usage": include_usage})
    events = await _until_broken(system, broken, lambda: stream(system, body))
    check_one_stream(events)
    assert text_of(events) == expected_text("tell me everything about tides", 5)
    counts = [event["usage"] for event in events[:-1] if event.get("usage")]
    assert counts == [{"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}] * include_usage


async def test_every_engine_breaks_off_and_each_goes_on(start_engine: StartEngine, start_system: StartSystem) -> None:
    engines = [await start_engine(cut_rate=1, cut_after_tokens=5, **SLOW) for _ in range(3)]
    system = await start_system(*engines, worker_max_attempts=20)
    events = await stream(system, chat("tides", max_tokens=22))
    check_one_stream(events)
    assert text_of(events) == expected_text("tides", 22)
    assert sum([(await engine.state())["faulted"] for engine in engines]) == 5


async def test_the_last_attempt_ends_it_with_an_error(start_engine: StartEngine, start_system: StartSystem) -> None:
    engines = [await start_engine(cut_rate=1, cut_after_tokens=5, **SLOW) for _ in range(2)]
    system = await start_system(*engines, worker_max_attempts=2)
    events = await stream(system, chat("tides", max_tokens=50))
    assert error_at_the_end(events)["code"] == "engine_broken"
    assert expected_text("tides", 50).startswith(text_of(events[:-1]))
    assert len(text_of(events[:-1]).split()) == 10
    await system.until_idle()


NOT_CONTINUED: list[dict[str, Any]] = [
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
    {"guided_json": {"type": "object"}},
    {"guided_choice": ["a", "b"]},
    {"structured_outputs": {"regex": "a*"}},
    {"grammar": "root ::= 'a'"},
    {"regex": "a*"},
    {"logprobs": True},
    {"logprobs": True, "top_logprobs": 2},
    {"n": 2},
    {"best_of": 2},
    {"tool_choice": "required"},
    {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"messages": [{"role": "user", "content": "tides"}, {"role": "assistant", "content": "So"}]},
]


@pytest.mark.parametrize("fields", NOT_CONTINUED, ids=lambda fields: " ".join(map(str, fields.items()))[:40])
async def test_where_it_would_be_wrong_the_stream_ends_with_an_error(
    system: InProcessSystem, broken: SimulatedEngine, fields: dict[str, Any]
) -> None:
    body = {**chat("tides", max_tokens=30), **fields}
    events = await _until_broken(system, broken, lambda: stream(system, body))
    assert error_at_the_end(events)["code"] == "engine_broken"
    await system.until_idle()


@pytest.mark.parametrize("fields", [{"echo": True}, {"logprobs": 1}, {"suffix": "end"}, {"prompt": [1, 2, 3]}])
async def test_completions_that_are_not_continued(
    system: InProcessSystem, broken: SimulatedEngine, fields: dict[str, Any]
) -> None:
    body = {"model": MODEL, "prompt": "tides", "max_tokens": 30, **fields}
    events = await _until_broken(system, broken, lambda: stream(system, body, TEXT_PATH))
    assert error_at_the_end(events)["code"] == "engine_broken"


async def test_a_client_may_say_no(system: InProcessSystem, broken: SimulatedEngine) -> None:
    body = chat("tides", max_tokens=30)
    events = await _until_broken(system, broken, lambda: stream(system, body, **{"X-Mid-Stream-Retry": "never"}))
    assert error_at_the_end(events)["code"] == "engine_broken"
    async with system.session.post(
        system.url + CHAT_PATH, json=body, headers={"X-Mid-Stream-Retry": "sometimes"}
    ) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "X-Mid-Stream-Retry"


async def test_an_operator_may_say_no(
    broken: SimulatedEngine, sound: SimulatedEngine, start_system: StartSystem
) -> None:
    system = await start_system(broken, sound, gateway_mid_stream_retry=False, **IN_TURN)
    events = await _until_broken(system, broken, lambda: stream(system, chat("tides", max_tokens=30)))
    assert error_at_the_end(events)["code"] == "engine_broken"


async def test_offered_tools_that_were_not_called(system: InProcessSystem, broken: SimulatedEngine) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    body = chat("tides", max_tokens=30, tools=tools, tool_choice="auto", response_format={"type": "text"})
    events = await _until_broken(system, broken, lambda: stream(system, body))
    check_one_stream(events)
    assert text_of(events) == expected_text("tides", 30)


async def test_a_silent_engine_is_left(start_engine: StartEngine, start_system: StartSystem) -> None:
    """The gap between two tokens is longer than allowed."""
    silent, sound = await start_engine(tpot_ms=3_600_000), await start_engine()
    system = await start_system(silent, sound, worker_gap_timeout_s=0.3, **IN_TURN)
    for _ in range(2):
        events = await stream(system, chat("tides", max_tokens=30))
        check_one_stream(events)
        assert text_of(events) == expected_text("tides", 30)
        if (await silent.state())["total_requests"]:
            break
    await silent.until(aborted=1)


async def test_a_client_that_leaves_during_the_takeover(start_engine: StartEngine, start_system: StartSystem) -> None:
    """The second attempt runs, and has not said a word yet."""
    broken = await start_engine(cut_rate=1, cut_after_tokens=5, **SLOW)
    system = await start_system(broken, worker_max_attempts=5)
    body = chat("tides", max_tokens=500, stream=True)
    async with system.session.post(system.url + CHAT_PATH, json=body) as response:
        request_id = response.headers["X-Request-ID"]
        await anext(data(response))
        await broken.faults(cut_rate=0, hang_rate=1)

        async def second() -> bool:
            view = await system.find(request_id)
            return view is not None and (view.attempt, view.state) == (2, RequestState.RUNNING)

        await wait_until(second, what="the second attempt runs")
        assert (await system.store.commands.hget(system.store.keys.pool(MODEL).record(request_id), "after")) is not None
    assert await system.until_outcome(request_id) == "cancelled"
    await system.until_idle()


async def test_the_official_client_sees_nothing(system: InProcessSystem, broken: SimulatedEngine) -> None:
    client = openai.AsyncOpenAI(base_url=f"{system.url}/v1", api_key="none", max_retries=0, timeout=10)
    async with client:
        for number in range(4):
            text, usage = "", None
            async for chunk in await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"story {number}"}],
                max_tokens=25,
                stream=True,
                stream_options={"include_usage": True},
            ):
                usage = chunk.usage or usage
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            assert text == expected_text(f"story {number}", 25)
            assert usage is not None
            assert (usage.prompt_tokens, usage.completion_tokens) == (1 + (len(f"story {number}") // 4 - 1), 25)
    assert (await broken.state())["faulted"] >= 1


async def test_many_at_once(start_engine: StartEngine, start_system: StartSystem) -> None:
    engines = [
        await start_engine(cut_rate=0.4, cut_after_tokens=7, fault_seed=seed, tpot_ms=2, slots=8) for seed in range(3)
    ]
    system = await start_system(*engines, worker_max_attempts=20, gateways=2)

    async def ask(number: int) -> None:
        events = await stream(system, chat(f"client {number}", max_tokens=40))
        check_one_stream(events)
        assert text_of(events) == expected_text(f"client {number}", 40)

    async with asyncio.timeout(20):
        await asyncio.gather(*(ask(number) for number in range(40)))
    assert sum([(await engine.state())["faulted"] for engine in engines]) > 10
    await system.until_idle()
