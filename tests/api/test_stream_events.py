"""How many tokens the events of a stream tell of, by what the engine says about them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from sagellm_protocol import StreamEventDelta, StreamEventEnd, StreamEventStart

from sagellm_control.manager.backend import Piece
from sagellm_control.manager.events import EventWriter

from .conftest import a_request

UNKNOWN = -1


def chunk(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more}


def used(tokens: int) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": 7, "completion_tokens": tokens}}


LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def ids(*tokens: int) -> dict[str, Any]:
    return {"sagellm": {"content_tokens": list(tokens)}}


@pytest.mark.parametrize(
    ("chunks", "prompt_tokens", "of_deltas", "of_end"),
    [
        pytest.param([chunk("a"), chunk("b"), LAST], None, [[UNKNOWN], [UNKNOWN]], [UNKNOWN] * 2, id="nothing"),
        pytest.param(
            [chunk("ab"), chunk("c"), LAST, {"choices": [], **used(3)}],
            None,
            [[UNKNOWN], [UNKNOWN]],
            [UNKNOWN] * 3,
            id="usage at the end",
        ),
        pytest.param(
            [chunk("ab", **used(2)), chunk("c", **used(3)), LAST, {"choices": [], **used(3)}],
            7,
            [[UNKNOWN] * 2, [UNKNOWN]],
            [UNKNOWN] * 3,
            id="usage in each chunk",
        ),
        pytest.param(
            [chunk("ab", **used(2), **ids(4, 5)), chunk("c", **used(3), **ids(6)), LAST, {"choices": [], **used(3)}],
            7,
            [[4, 5], [6]],
            [4, 5, 6],
            id="ids",
        ),
    ],
)
def test_tokens(
    chunks: list[dict[str, Any]], prompt_tokens: int | None, of_deltas: list[list[int]], of_end: list[int]
) -> None:
    writer = EventWriter(a_request())
    data = b"".join(b"data: " + orjson.dumps(piece) + b"\n\n" for piece in chunks) + b"data: [DONE]\n\n"
    events = [*writer.feed(Piece("e", data)), *writer.end()]
    start, *deltas, end = events
    assert isinstance(start, StreamEventStart)
    assert start.prompt_tokens == prompt_tokens
    assert [delta.content_tokens for delta in deltas if isinstance(delta, StreamEventDelta)] == of_deltas
    assert isinstance(end, StreamEventEnd)
    assert end.output_tokens == of_end
