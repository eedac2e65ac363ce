"""The engine's answers can be predicted token by token."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from sagellm_control.simulated_engine import answer_tokens, chat_prompt, count_prompt_tokens, embedding
from sagellm_control.simulated_engine.answers import SENTENCES, count_answer_tokens, token_id

SEEDS = st.none() | st.integers()


@given(prompt=st.text(), seed=SEEDS, count=st.integers(0, 700), more=st.integers(0, 300))
def test_longer_answer_begins_with_the_shorter(prompt: str, seed: int | None, count: int, more: int) -> None:
    assert answer_tokens(prompt, count + more, seed)[:count] == answer_tokens(prompt, count, seed)


@given(prompt=st.text(), seed=SEEDS, start=st.integers(0, 700), count=st.integers(0, 300))
def test_answer_continues_where_it_was_cut(prompt: str, seed: int | None, start: int, count: int) -> None:
    assert answer_tokens(prompt, count, seed, start) == answer_tokens(prompt, start + count, seed)[start:]


@given(prompt=st.text(), count=st.integers(0, 700))
def test_tokens_are_words_that_stand_in_json_as_they_are(prompt: str, count: int) -> None:
    tokens = answer_tokens(prompt, count)
    assert len(tokens) == count
    assert count_answer_tokens("".join(tokens)) == count
    assert orjson.dumps("".join(tokens)) == b'"' + "".join(tokens).encode() + b'"'


def test_prompts_and_seeds_have_answers_of_their_own() -> None:
    heads = {tuple(answer_tokens(f"prompt {number}", 2, seed)) for number in range(100) for seed in range(10)}
    assert len(heads) == 1000
    assert answer_tokens("a", 50) == answer_tokens("a", 50, 0)


def test_each_sentence_comes_once_before_one_comes_again() -> None:
    words = sum(len(sentence.split()) for sentence in SENTENCES)
    text = "".join(answer_tokens("anything", 4 + words))
    assert all(text.count(sentence) == 1 for sentence in SENTENCES)


def test_answer_reads_well() -> None:
    assert "".join(answer_tokens("hi there", 16)) == (
        "Answer 98d6c955 says hello. The stars keep their appointments without any reminder. The moon follows the"
    )


def test_prompt_of_a_chat() -> None:
    assert chat_prompt([{"role": "user", "content": "one"}]) == "one"
    image = {"type": "image_url", "image_url": {"url": "data:..."}}
    messages: list[dict[str, object]] = [
        {"role": "system", "content": "be kind"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": [{"type": "text", "text": "what is "}, image]},
    ]
    assert chat_prompt(messages) == "be kind\n\nwhat is [image_url]"
    assert [count_prompt_tokens(text) for text in ("", "abcd", "abcdefgh")] == [1, 1, 2]


@given(text=st.text(), dimensions=st.integers(1, 100))
def test_embeddings_are_unit_vectors_of_the_text(text: str, dimensions: int) -> None:
    vector = embedding(text, dimensions)
    assert len(vector) == dimensions
    assert vector == embedding(text, dimensions)
    assert abs(sum(value * value for value in vector) - 1) < 1e-5


def test_token_numbers_are_stable() -> None:
    assert token_id("Answer") == token_id("Answer") != token_id(" hello.")
    assert 0 <= token_id(" tide") < 2**31
