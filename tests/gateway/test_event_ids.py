"""Ids of the events of a stream: each event has one, and behind each one can go on exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_control.gateway.event_ids import EventId, EventNumbering
from sagellm_control.wire.event import CHUNK, Event


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1-7", EventId(1, 7)), (" 2-1.3 ", EventId(2, 1, 3)), ("0-1", EventId(0, 1)), ("1-0", EventId(1, 0))],
)
def test_an_id_is_read(text: str, expected: EventId) -> None:
    assert EventId.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1", "a-b", "1-7.", "1-7.0", "1-0.1", "1-7-8", "1e3-1", "١-١", "1-" + "9" * 30]
)
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="no id"):
        EventId.parse(text)


def _written(payload: bytes, after: str | None = None, at: tuple[int, int] = (1, 7)) -> bytes:
    numbering = EventNumbering(EventId.parse(after) if after else None)
    return numbering.write(Event("r", *at, CHUNK, payload), payload)


def test_the_last_event_of_an_entry_has_the_entrys_number() -> None:
    assert _written(b"data: a\n\n") == b"id: 1-7\ndata: a\n\n"
    assert _written(b"data: a\n\ndata: b\r\n\r\ndata: c\n\n") == (
        b"id: 1-7.1\ndata: a\n\nid: 1-7.2\ndata: b\r\n\r\nid: 1-7\ndata: c\n\n"
    )


def test_what_the_client_has_is_left_out() -> None:
    payload = b"data: a\n\ndata: b\n\ndata: c\n\n"
    assert _written(payload, "1-7.2") == b"id: 1-7\ndata: c\n\n"
    assert _written(payload, "1-7.9") == b""
    assert _written(payload, "1-6.2") == _written(payload)


def test_what_was_made_up_on_the_way_has_no_id() -> None:
    assert _written(b"data: x\n\n", at=(0, 0)) == b"data: x\n\n"


LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), max_size=8)


@given(entries=st.lists(st.lists(LINES, min_size=1, max_size=4), min_size=1, max_size=5), data=st.data())
def test_behind_any_event_comes_exactly_the_rest(entries: list[list[str]], data: st.DataObject) -> None:
    payloads = [b"".join(b"data: %s\n\n" % line.encode() for line in lines) for lines in entries]
    whole = [_written(payload, None, (1, n)) for n, payload in enumerate(payloads, 1)]
    events = [event for written in whole for event in written.split(b"\n\n")[:-1]]
    seen = data.draw(st.integers(0, len(events) - 1))
    after = EventId.parse(events[seen].split(b"\n")[0].removeprefix(b"id: ").decode())
    numbering = EventNumbering(after)
    rest = b"".join(
        numbering.write(Event("r", 1, n, CHUNK, payload), payload)
        for n, payload in enumerate(payloads, 1)
        if (1, n) > after.entry_before
    )
    assert rest.split(b"\n\n")[:-1] == events[seen + 1 :]
