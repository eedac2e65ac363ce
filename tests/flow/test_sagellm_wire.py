"""An engine that speaks sageLLM's own wire: the client does not notice."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest

from sagellm_control.simulated_engine import answer_tokens, embedding

from .asking import MODEL
from .conftest import SimulatedEngine, StartEngine, StartSystem
from .in_process import InProcessSystem

MESSAGES: Any = [{"role": "user", "content": "tell me about tides"}]


@pytest.fixture
async def engine(start_engine: StartEngine) -> SimulatedEngine:
    return await start_engine(wire="sagellm")


@pytest.fixture
async def system(engine: SimulatedEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(engine)


@pytest.fixture
async def client(system: InProcessSystem) -> AsyncGenerator[openai.AsyncOpenAI, None]:
    async with openai.AsyncOpenAI(base_url=f"{system.url}/v1", api_key="none", max_retries=0, timeout=10) as client:
        yield client


async def test_the_worker_finds_out_which_wire_it_is(system: InProcessSystem) -> None:
    [view] = await system.engine_views()
    assert view.kind == "sagellm"
    assert view.models == [MODEL]


async def test_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=12)
    words = (answer.choices[0].message.content or "").split()
    assert len(words) == 12
    assert words[0] == "Answer"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12


async def test_a_streamed_chat_says_the_same(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=40)
    stream = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=40, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 40


async def test_completion(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt="once upon", max_tokens=9)
    assert answer.choices[0].text == "".join(answer_tokens("once upon", 9))


async def test_embeddings(client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model=MODEL, input=["a", "b"])
    assert answer.data[0].embedding == pytest.approx(embedding("a", len(answer.data[0].embedding)), abs=1e-6)
    assert [item.index for item in answer.data] == [0, 1]


async def test_what_cannot_be_translated_names_the_field(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=MESSAGES, n=2)
    assert caught.value.param == "n"


async def test_a_cut_stream_ends_with_an_error(client: openai.AsyncOpenAI, engine: SimulatedEngine) -> None:
    await engine.faults(cut_rate=1, cut_after_tokens=4)
    stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=40, stream=True)
    said: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            said.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - what came before the error counts

    with pytest.raises(openai.APIError, match="engine"):
        await read()
    assert len("".join(said).split()) == 4
