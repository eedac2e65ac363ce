"""The official ``openai`` client is one of our users: what it can do, it can do through the queue."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest

from sagellm_control.simulated_engine import answer_tokens, embedding

from .asking import MODEL, expected_text
from .conftest import ENDLESS, SimulatedEngine, StartEngine, StartSystem
from .in_process import InProcessSystem

MESSAGES: Any = [{"role": "user", "content": "tell me about tides"}]


@pytest.fixture
async def engine(start_engine: StartEngine) -> SimulatedEngine:
    return await start_engine()


@pytest.fixture
async def system(engine: SimulatedEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(engine)


@pytest.fixture
async def client(system: InProcessSystem) -> AsyncGenerator[openai.AsyncOpenAI, None]:
    async with _client(system.url) as client:
        yield client


def _client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=10)


async def test_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=12)
    assert answer.choices[0].message.content == expected_text("tell me about tides", 12)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12


async def test_chat_with_several_choices(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=6, n=3)
    texts = [choice.message.content for choice in answer.choices]
    assert texts == ["".join(answer_tokens("tell me about tides", 6, seed)) for seed in range(3)]


async def test_streamed_chat_with_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=40, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == expected_text("tell me about tides", 40)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 40


async def test_completion(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt="once upon", max_tokens=9)
    assert answer.choices[0].text == "".join(answer_tokens("once upon", 9))


async def test_streamed_completion(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(model=MODEL, prompt="once upon", max_tokens=9, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "".join(answer_tokens("once upon", 9))


async def test_embeddings(client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model=MODEL, input=["a", "b"], dimensions=8)
    assert [item.index for item in answer.data] == [0, 1]
    # The client asks for base64, which holds 32-bit floats.
    assert answer.data[1].embedding == pytest.approx(embedding("b", 8), abs=1e-6)


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL]


async def test_one_model(client: openai.AsyncOpenAI) -> None:
    assert (await client.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody")


async def test_an_unknown_model_lists_the_known_ones(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="nobody", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert MODEL in caught.value.message


async def test_a_bad_request_names_the_field(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=[])
    assert caught.value.param == "messages"
    assert caught.value.type == "invalid_request_error"


async def test_an_error_in_place_of_a_stream(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="nobody", messages=MESSAGES, stream=True)


async def test_what_only_the_engine_refuses(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=MESSAGES, n=100_000)
    assert caught.value.param == "n"


async def test_ids_and_raw_response(client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model=MODEL, messages=MESSAGES, max_tokens=3, extra_headers={"X-Request-ID": "mine-1", "X-Trace-ID": "trace-1"}
    )
    assert raw.headers["X-Request-ID"] == "mine-1"
    assert raw.headers["X-Trace-ID"] == "trace-1"
    assert raw.request_id == "mine-1"
    assert raw.parse().choices[0].message.content == expected_text("tell me about tides", 3)


async def test_closing_a_stream_aborts_the_engine(start_engine: StartEngine, start_system: StartSystem) -> None:
    engine = await start_engine(**ENDLESS)
    system = await start_system(engine)
    async with _client(system.url) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=5, stream=True, extra_headers={"X-Request-ID": "left"}
        )
        first = await anext(aiter(stream))
        assert first.choices[0].delta.content == "Answer"
        await stream.close()
    await engine.until(aborted=1, running=0)
    assert await system.until_outcome("left") == "cancelled"
    await system.until_idle()
