"""Events: the frames on an inbox channel, the entries of an output log, and endings."""

from __future__ import annotations

from typing import Any

import pytest

from sagellm_control.wire.event import CHUNK, END, Ending, Event, read_frames, read_log_entry, read_position
from sagellm_control.wire.states import Outcome

TWO_FRAMES = b'r1 1-1 chunk 9\ndata: x\n\n\nr2 3-12 end 26\n{"outcome":"completed"}\n{}\n'


def test_read_frames() -> None:
    assert read_frames(TWO_FRAMES) == [
        Event("r1", 1, 1, CHUNK, b"data: x\n\n"),
        Event("r2", 3, 12, END, b'{"outcome":"completed"}\n{}'),
    ]


def test_no_frames() -> None:
    assert read_frames(b"") == []


@pytest.mark.parametrize(
    "message",
    [
        b"no header",
        b"r1 1-1 chunk\nx\n",
        b"r1 1-1 chunk nine\nx\n",
        b"r1 x chunk 1\nx\n",
        b"r1 1-1 chunk 9\nshort\n",
        b"\xff 1-1 chunk 1\nx\n",
        TWO_FRAMES[:-1],
        TWO_FRAMES + b"r3 ",
    ],
)
def test_a_message_that_is_not_a_run_of_frames(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_frames(message)


def test_a_payload_may_hold_anything() -> None:
    payload = b"r9 1-1 chunk 5\nhello\n\x00\xff"
    frame = b"r1 1-1 chunk %d\n%b\n" % (len(payload), payload)
    assert read_frames(frame + frame) == [Event("r1", 1, 1, CHUNK, payload)] * 2


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (b'data: {"a": 1}\n\ndata: {"b":\ndata: 2}\n\ndata: [DONE]\n\n', ['{"a": 1}', '{"b":\n2}']),
        (b'event: x\r\ndata:{"a": "data: \xe2\x80\xa8"}\r\n\r\n: ping\r\n\r\n', ['{"a": "data: \u2028"}']),
        (b"data: 7", ["7"]),
        (b"data: \n\n", []),
        (b": ping\n\n", []),
        (b"", []),
        (b'{"choices": []}', []),
    ],
)
def test_what_an_event_says(payload: bytes, data: list[str]) -> None:
    chunk = Event("r1", 1, 1, CHUNK, payload)
    assert (chunk.data, chunk.ending) == (data, None)
    ending = Ending(Outcome.COMPLETED, body=payload)
    end = Event("r1", 1, 2, END, ending.encode())
    assert (end.data, end.ending) == (data, ending)


@pytest.mark.parametrize(
    ("given", "position"),
    [(0, (0, 0)), (5, (1, 5)), ("2-7", (2, 7)), ((2, 7), (2, 7)), ((0, 0), (0, 0))],
)
def test_a_position_as_people_write_it(given: tuple[int, int] | int | str, position: tuple[int, int]) -> None:
    assert read_position(given) == position


@pytest.mark.parametrize("given", [-1, True, "", "7", "1-7.2", "a-b", "1--7", (1,), (1, 2, 3), (1, "2"), (-1, 2), None])
def test_what_is_no_position(given: Any) -> None:
    with pytest.raises(ValueError, match="after must be the position of an event"):
        read_position(given)


def test_read_log_entry() -> None:
    assert read_log_entry("r", b"2-7", {b"type": b"chunk", b"payload": b"p"}) == Event("r", 2, 7, CHUNK, b"p")


def test_events_are_ordered_by_attempt_then_sequence() -> None:
    assert Event("r", 1, 9, CHUNK, b"").position < Event("r", 1, 10, CHUNK, b"").position
    assert Event("r", 1, 10, CHUNK, b"").position < Event("r", 2, 1, CHUNK, b"").position


@pytest.mark.parametrize(
    ("ending", "header"),
    [
        (Ending(Outcome.COMPLETED), b'{"outcome":"completed","status":200}'),
        (
            Ending(Outcome.FAILED, 502, code="engine_broken", message="It broke.", engine="e1", body=b"\x00\n{}"),
            b'{"outcome":"failed","status":502,"code":"engine_broken","message":"It broke.","engine":"e1"}',
        ),
        (
            Ending(Outcome.REFUSED, 429, content_type="text/plain", retry_after_s=1.5, body=b"later"),
            b'{"outcome":"refused","status":429,"content_type":"text/plain","retry_after_s":1.5}',
        ),
    ],
)
def test_an_ending_comes_back_as_it_was(ending: Ending, header: bytes) -> None:
    payload = ending.encode()
    assert payload == header + b"\n" + ending.body
    assert Ending.decode(payload) == ending


def test_fields_of_a_newer_version_are_ignored() -> None:
    assert Ending.decode(b'{"outcome":"completed","mood":"good"}\n') == Ending(Outcome.COMPLETED)
