"""Cutting a stream at its blank lines, whatever pieces it comes in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_workers.adapters.sse import EventSplitter, EventTooLarge, data_of

ENDINGS = [b"\n\n", b"\r\n\r\n", b"\n\r\n", b"\r\n\n"]
EVENT = st.tuples(
    st.sampled_from([b"data: ", b": ", b"event: x\ndata: ", b"event: x\r\ndata:"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=12).map(str.encode),
    st.sampled_from(ENDINGS),
).map(b"".join)


@given(events=st.lists(EVENT, max_size=6), cuts=st.lists(st.integers(0, 200), max_size=30))
def test_any_cut_gives_whole_events(events: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(events)
    edges = [0, *sorted({min(cut, len(stream)) for cut in cuts}), len(stream)]
    splitter = EventSplitter()
    given_out = [splitter.feed(stream[a:b]) for a, b in pairwise(edges)]
    assert b"".join(given_out) == stream
    assert splitter.finish() == b""
    wholes = {len(b"".join(events[:count])) for count in range(len(events) + 1)}
    position = 0
    for item in given_out:
        position += len(item)
        assert position in wholes


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_piece_that_ends_with_an_event_is_not_copied(ending: bytes) -> None:
    piece = b"data: 1\n\ndata: 2" + ending
    assert EventSplitter().feed(piece) is piece


@pytest.mark.parametrize("ending", ENDINGS)
def test_byte_by_byte_each_event_comes_at_its_last_byte(ending: bytes) -> None:
    splitter = EventSplitter()
    event = "data: é€".encode() + ending
    given_out = [splitter.feed(bytes([byte])) for byte in event * 2]
    assert [item for item in given_out if item] == [event, event]
    assert given_out[len(event) - 1] == event


@pytest.mark.parametrize("rest", [b"data: x", b"data: x\n", b"data: x\r\n"])
def test_the_last_event_is_given_the_blank_line_that_it_lacks(rest: bytes) -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: 0\n\n" + rest) == b"data: 0\n\n"
    assert splitter.finish() == b"data: x\n\n"
    assert splitter.finish() == b""


@pytest.mark.parametrize("blank", [b"", b"\n", b"\r\n", b"\n\n", b"\r"])
def test_blank_lines_at_the_end_are_no_event(blank: bytes) -> None:
    splitter = EventSplitter()
    splitter.feed(b"data: 0\n\n")
    splitter.feed(blank)
    assert splitter.finish() == b""


def test_an_event_over_the_limit_is_refused() -> None:
    splitter = EventSplitter(limit_bytes=100)
    assert splitter.feed(b"data: 0\n\n" * 50)
    assert splitter.feed(b"x" * 100) == b""
    with pytest.raises(EventTooLarge, match="100 bytes"):
        splitter.feed(b"x")


@pytest.mark.parametrize(
    ("events", "data"),
    [
        (b"", []),
        (b"data: 1\n\ndata:2\r\n\r\ndata:  3\n\n", [b"1", b"2", b" 3"]),
        (b": a comment\n\nevent: x\n\ndata: 1\n\n", [b"1"]),
        (b"data: 1\ndata: 2\nid: 7\n\n", [b"1\n2"]),
        (b"data:\n\n", [b""]),
    ],
)
def test_data_of_events(events: bytes, data: list[bytes]) -> None:
    assert data_of(events) == data
