"""Hashes of a prompt's beginning: two prompts share them up to where they differ."""

from __future__ import annotations

from typing import Any

import pytest

from sagellm_control.client.prompt_prefix import BLOCK_CHARACTERS, MOST_BLOCKS, prefix_blocks


def chat(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts], **fields}


def test_a_short_prompt_has_none() -> None:
    assert prefix_blocks("m", chat("x" * 100)) == ()


def test_turns_of_one_conversation_share_their_beginning() -> None:
    first, second = chat("a" * 5000), chat("a" * 5000, "and then?" * 500, temperature=1)
    before, after = prefix_blocks("m", first), prefix_blocks("m", second)
    assert len(before) == 2
    assert after[:2] == before
    assert len(after) == 4


def test_what_differs_early_differs_ever_after() -> None:
    one, other = (prefix_blocks("m", chat(start + "a" * 9000)) for start in "xy")
    assert len(one) == len(other) == 4
    assert not set(one) & set(other)


@pytest.mark.parametrize("changed", [{"tools": [{"type": "function"}]}, {}])
def test_tools_and_the_adapter_belong_to_it(changed: dict[str, Any]) -> None:
    same = prefix_blocks("m", chat("a" * 5000))
    assert prefix_blocks("m" if changed else "lora", chat("a" * 5000, **changed)) != same


def test_it_is_bounded() -> None:
    blocks = prefix_blocks("m", chat("a" * 10 * MOST_BLOCKS * BLOCK_CHARACTERS))
    assert len(blocks) == MOST_BLOCKS
    assert all(len(block) == 12 for block in blocks)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a" * 5000},
        {"prompt": ["a" * 5000]},
        {"prompt": [7] * 5000},
        {"input": "a" * 5000},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a" * 5000}]}]},
    ],
)
def test_every_form_of_a_prompt_has_blocks(body: dict[str, Any]) -> None:
    assert len(prefix_blocks("m", body)) >= 2


@pytest.mark.parametrize("messages", [1, 1.5, True, "hello", {"role": "user"}, [3, None]])
@pytest.mark.parametrize("name", ["prompt", "input"])
def test_messages_where_they_mean_nothing_are_not_read(name: str, messages: Any) -> None:
    body = {name: "a" * 5000}
    assert prefix_blocks("m", {**body, "messages": messages}) == prefix_blocks("m", body)


def test_an_image_counts_by_its_beginning() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    body = {"messages": [{"role": "user", "content": [image, {"type": "text", "text": "what is it?"}]}]}
    assert len(prefix_blocks("m", body)) == 1
