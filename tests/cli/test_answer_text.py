"""The text in OpenAI answers."""

from __future__ import annotations

import pytest

from sagellm_control.cli.answer_text import EventText, text_of

STREAM = (
    b": keep-alive\n\n"
    b'data: {"choices": [{"index": 0, "delta": {"role": "assistant"}}]}\n\n'
    b'data: {"choices": [{"index": 0, "delta": {"content": "Gr\xc3\xbc"}}]}\r\n\r\n'
    b'data:{"choices": [{"index": 0, "delta": {"content": "\\u00dfe"}}]}\n\n'
    b'data: {"choices": [{"index": 0, "text": "!"}]}\n\n'
    b'data: {"choices": [], "usage": {}}\n\n'
    b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_may_be_cut_anywhere(size: int) -> None:
    text = EventText()
    pieces = [piece for at in range(0, len(STREAM), size) for piece in text.feed(STREAM[at : at + size])]
    assert "".join(pieces) == "Grüße!"


def test_whole_answers() -> None:
    assert list(text_of(b'{"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}')) == ["a", "b"]
    assert list(text_of(b'{"choices": [{"text": "a"}]}')) == ["a"]
    assert list(text_of(b'{"choices": [{"message": {"content": null, "tool_calls": []}}]}')) == []


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"choices": 7}', b'{"choices": [1, {"delta": 2}]}'])
def test_what_has_no_text(body: bytes) -> None:
    assert list(text_of(body)) == []
