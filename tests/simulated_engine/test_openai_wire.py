"""The OpenAI wire: shapes, streams, usage, embeddings, discovery."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Any

import openai
import pytest

from sagellm_control.simulated_engine import answer_tokens, chat_prompt, embedding

from .conftest import StartEngine, chat

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
VECTORS = "/v1/embeddings"


async def test_chat(start_engine: StartEngine) -> None:
    engine = await start_engine()
    status, answer = await engine.post(CHAT, chat("tell me something", max_tokens=7))
    assert status == 200
    assert answer.pop("id").startswith("chatcmpl-")
    assert isinstance(answer.pop("created"), int)
    text = "".join(answer_tokens("tell me something", 7))
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None}
    assert answer == {
        "object": "chat.completion",
        "model": "simulated-1",
        "choices": [{**choice, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 7, "total_tokens": 11},
    }


async def test_chat_stream_has_one_token_a_chunk(start_engine: StartEngine) -> None:
    engine = await start_engine()
    body = chat("hi", max_tokens=5, stream=True, stream_options={"include_usage": True}, seed=3)
    *chunks, usage, done = await engine.events(CHAT, body)
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
    assert {chunk["id"] for chunk in chunks} == {usage["id"]}
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["usage"] is None for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    tokens = answer_tokens("hi", 5, seed=3)
    assert deltas == [
        {"role": "assistant", "content": tokens[0]},
        *({"content": token} for token in tokens[1:]),
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["length"]


async def test_stream_without_usage_has_no_usage(start_engine: StartEngine) -> None:
    engine = await start_engine()
    *chunks, done = await engine.events(CHAT, chat(max_tokens=2, stream=True))
    assert done == "[DONE]"
    assert len(chunks) == 3
    assert not any("usage" in chunk for chunk in chunks)


@pytest.mark.parametrize(
    ("fields", "count", "reason"),
    [
        ({}, 32, "stop"),
        ({"max_tokens": None}, 32, "stop"),
        ({"max_tokens": 40}, 40, "length"),
        ({"max_tokens": 40, "max_completion_tokens": 3}, 3, "length"),
        ({"max_tokens": 1000}, 50, "length"),
    ],
)
async def test_length(start_engine: StartEngine, fields: dict[str, Any], count: int, reason: str) -> None:
    engine = await start_engine(default_output_tokens=32, max_output_tokens=50)
    _, answer = await engine.post(CHAT, chat("x", **fields))
    assert answer["usage"]["completion_tokens"] == count
    assert answer["choices"][0]["finish_reason"] == reason
    assert answer["choices"][0]["message"]["content"] == "".join(answer_tokens("x", count))


async def test_several_choices_hold_several_slots(start_engine: StartEngine) -> None:
    engine = await start_engine(slots=2)
    expected = ["".join(answer_tokens("hi", 4, seed)) for seed in (5, 6, 7)]
    _, answer = await engine.post(CHAT, chat("hi", n=3, max_tokens=4, seed=5))
    assert [choice["message"]["content"] for choice in answer["choices"]] == expected
    assert answer["usage"] == {"prompt_tokens": 1, "completion_tokens": 12, "total_tokens": 13}
    assert (await engine.until(running=0))["peak_running"] == 2

    *chunks, done = await engine.events(CHAT, chat("hi", n=3, max_tokens=4, seed=5, stream=True))
    assert done == "[DONE]"
    texts = ["", "", ""]
    for chunk in chunks:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == expected


async def test_answer_that_was_cut_can_be_continued(start_engine: StartEngine) -> None:
    engine = await start_engine(default_output_tokens=12)
    question: dict[str, object] = {"role": "user", "content": "long story"}
    _, whole = await engine.post(CHAT, {"model": "simulated-1", "messages": [question]})
    whole_text = whole["choices"][0]["message"]["content"]
    begun = "".join(answer_tokens("long story", 5))
    messages = [question, {"role": "assistant", "content": begun}]
    body: dict[str, object] = {"model": "simulated-1", "messages": messages, "continue_final_message": True}
    _, rest = await engine.post(CHAT, body)
    assert begun + rest["choices"][0]["message"]["content"] == whole_text
    assert rest["choices"][0]["finish_reason"] == "stop"
    # As a tokenizer would have it: the tokens of the question, and those that were generated.
    assert rest["usage"]["prompt_tokens"] == len("long story") // 4 + 5
    _, three = await engine.post(CHAT, {**body, "max_tokens": 3})
    assert three["choices"][0]["message"]["content"] == "".join(answer_tokens("long story", 3, start=5))

    messages[1]["content"] = whole_text
    *chunks, done = await engine.events(CHAT, {**body, "stream": True})
    assert done == "[DONE]"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == ["stop"]
    messages[1]["content"] = begun
    _, fresh = await engine.post(CHAT, {**body, "continue_final_message": False})
    assert fresh["choices"][0]["message"]["content"] == "".join(answer_tokens(chat_prompt(messages), 12))


@pytest.mark.parametrize("cut", [1, 2, 4, 5, 30])
async def test_a_text_that_ends_with_half_an_answer_is_continued(start_engine: StartEngine, cut: int) -> None:
    engine = await start_engine(default_output_tokens=40)
    asked, whole = "Question: what does it Answer 12345678?", 40
    for seed in (None, 7):
        begun = "".join(answer_tokens(asked, cut, seed))
        body: dict[str, object] = {"model": "simulated-1", "prompt": asked + begun, "seed": seed}
        _, rest = await engine.post(TEXT, body)
        assert rest["choices"][0]["text"] == "".join(answer_tokens(asked, whole - cut, seed, start=cut))
        assert rest["usage"]["prompt_tokens"] == len(asked) // 4 + cut
        # With another seed it is no answer to that question, but part of the prompt.
        if cut > 1:
            _, other = await engine.post(TEXT, {**body, "seed": 8, "max_tokens": 3})
            assert other["choices"][0]["text"] == "".join(answer_tokens(asked + begun, 3, 8))


async def test_completions(start_engine: StartEngine) -> None:
    engine = await start_engine()
    body = {"model": "simulated-1", "prompt": "once upon", "max_tokens": 3}
    _, answer = await engine.post(TEXT, body)
    assert answer["object"] == "text_completion"
    text = "".join(answer_tokens("once upon", 3))
    assert answer["choices"] == [{"index": 0, "text": text, "logprobs": None, "finish_reason": "length"}]
    *chunks, done = await engine.events(TEXT, {**body, "stream": True})
    assert done == "[DONE]"
    texts = [chunk["choices"][0]["text"] for chunk in chunks]
    assert texts == [*answer_tokens("once upon", 3), ""]


@pytest.mark.parametrize(
    ("prompt", "texts", "tokens"),
    [
        (["one", "two"], ["one", "two"], 2),
        ([1, 2, 3], ["1 2 3"], 3),
        ([[1, 2], [3]], ["1 2", "3"], 3),
        ("", [""], 1),
    ],
)
async def test_forms_of_a_prompt(start_engine: StartEngine, prompt: Any, texts: list[str], tokens: int) -> None:
    engine = await start_engine()
    _, answer = await engine.post(TEXT, {"model": "simulated-1", "prompt": prompt, "max_tokens": 4})
    expected = ["".join(answer_tokens(text, 4)) for text in texts]
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert answer["usage"]["prompt_tokens"] == tokens


async def test_embeddings(start_engine: StartEngine) -> None:
    engine = await start_engine()
    body = {"model": "simulated-1", "input": ["a cat", "a dog"]}
    _, answer = await engine.post(VECTORS, body)
    assert answer["object"] == "list"
    assert [item["embedding"] for item in answer["data"]] == [embedding("a cat"), embedding("a dog")]
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert answer["usage"] == {"prompt_tokens": 2, "total_tokens": 2}

    _, packed = await engine.post(VECTORS, {**body, "encoding_format": "base64", "dimensions": 5})
    raw = base64.b64decode(packed["data"][1]["embedding"])
    assert list(struct.unpack("<5f", raw)) == embedding("a dog", 5)


async def test_discovery(start_engine: StartEngine) -> None:
    engine = await start_engine(models=["red", "blue"], slots=7)
    rows = (await engine.get("/v1/models"))["data"]
    assert [(row["id"], row["owned_by"]) for row in rows] == [
        ("red", "sagellm-simulated"),
        ("blue", "sagellm-simulated"),
    ]
    assert (await engine.get("/props"))["total_slots"] == 7
    assert await engine.get("/health") == {"status": "ok"}


async def test_metrics(start_engine: StartEngine) -> None:
    engine = await start_engine(slots=3)
    await engine.post(CHAT, chat(max_tokens=9))
    async with engine.session.get(engine.url + "/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        lines = (await response.text()).splitlines()
    assert "simulated_engine_generated_tokens_total 9.0" in lines
    assert "simulated_engine_running 0.0" in lines
    assert "simulated_engine_waiting 0.0" in lines
    assert "simulated_engine_slots 3.0" in lines
    assert 'simulated_engine_requests_total{outcome="finished"} 1.0' in lines


async def test_http_1_0_gets_a_stream_without_chunks(start_engine: StartEngine) -> None:
    engine = await start_engine()
    reader, writer = await asyncio.open_connection(*engine.url.removeprefix("http://").split(":"))
    body = b'{"model":"simulated-1","messages":[{"role":"user","content":"hi"}],"max_tokens":2,"stream":true}'
    writer.write(b"POST %b HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body))
    head, _, events = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b"chunked" not in head
    assert all(line.startswith(b"data: ") for line in events.split(b"\n\n")[:-1])
    assert events.count(b"data: ") == 4


async def test_the_official_client(start_engine: StartEngine) -> None:
    engine = await start_engine()
    async with openai.AsyncOpenAI(base_url=engine.url + "/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="simulated-1", messages=[{"role": "user", "content": "hi"}], max_tokens=20, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "".join(answer_tokens("hi", 20))
        vectors = await client.embeddings.create(model="simulated-1", input="a cat")
        assert vectors.data[0].embedding == pytest.approx(embedding("a cat"))
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="other", prompt="hi")


async def test_many_streams_at_once_get_each_its_own_answer(start_engine: StartEngine) -> None:
    engine = await start_engine(slots=16)

    async def ask(number: int) -> None:
        events = await engine.events(CHAT, chat(f"question {number}", max_tokens=30, stream=True))
        contents = [event["choices"][0]["delta"].get("content") for event in events[:-2]]
        assert contents == answer_tokens(f"question {number}", 30)

    await asyncio.gather(*(ask(number) for number in range(60)))
    state = await engine.until(finished=60, running=0, waiting=0)
    assert state["total_requests"] == 60
    assert state["peak_running"] <= 16
    assert state["generated_tokens"] == 60 * 30
