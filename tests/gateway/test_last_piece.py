"""What a stream that has begun ends with: its last chunk, or one error event and no ``[DONE]``."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sagellm_control.gateway.last_piece import last_piece
from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import Outcome

EVENTS = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"


def _piece(ending: Ending) -> bytes:
    return last_piece(ending, dict)


def _error_of(piece: bytes) -> dict[str, Any]:
    assert piece.endswith(b"\n\n")
    assert piece.count(b"\n\n") == 1, "more than one event"
    assert DONE not in piece
    return orjson.loads(piece.removeprefix(b"data: "))["error"]


def test_a_stream_ends_with_what_is_left_of_it() -> None:
    rest = b'data: {"x":1}\n\n' + DONE
    assert _piece(Ending(Outcome.COMPLETED, content_type=EVENTS, body=rest)) == rest
    assert _piece(Ending(Outcome.COMPLETED, content_type=EVENTS)) == b""


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED, Outcome.EXPIRED, Outcome.DEAD])
def test_any_other_ending_is_an_error_event(outcome: Outcome) -> None:
    error = _error_of(_piece(Ending(outcome, 502, code="engine_lost", message="It was lost.")))
    assert (error["code"], error["message"]) == ("engine_lost", "It was lost.")


def test_the_error_event_names_the_limit_and_its_header() -> None:
    ending = Ending(Outcome.EXPIRED, 504, code="deadline_exceeded", message="It passed.")
    error = _error_of(last_piece(ending, lambda: {"deadline_exceeded": ("X-Some is 5.", "X-Some")}))
    assert (error["message"], error["param"]) == ("It passed. X-Some is 5.", "X-Some")


def test_output_that_was_on_its_way_comes_before_the_error() -> None:
    piece = _piece(Ending(Outcome.CANCELLED, 499, code="cancelled", message="x", body=b'data: {"x":1}\n\n'))
    first, _, rest = piece.partition(b"\n\n")
    assert first == b'data: {"x":1}'
    assert _error_of(rest)["code"] == "cancelled"


def test_a_comment_that_was_on_its_way_does_not_hide_the_error() -> None:
    body = b': ping\n\ndata: {"x":1}\n\n'
    piece = _piece(Ending(Outcome.CANCELLED, 499, code="cancelled", message="x", body=body))
    assert piece.startswith(body)
    assert _error_of(piece.removeprefix(body))["code"] == "cancelled"


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.FAILED])
def test_an_engines_error_is_passed_on(outcome: Outcome) -> None:
    """The headers have gone out with a keep-alive, so that its status is lost; its words are not."""
    body = b'{"error": {"message": "too long", "vendor": [1]}}'
    assert _error_of(_piece(Ending(outcome, 400, body=body))) == {"message": "too long", "vendor": [1]}


@pytest.mark.parametrize("body", [b'{"detail":"no"}', b"<html>", b"\xff", b"[]", b"3"])
def test_an_engines_error_in_another_form_becomes_ours(body: bytes) -> None:
    error = _error_of(_piece(Ending(Outcome.REFUSED, 422, body=body)))
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_a_whole_answer_in_place_of_a_stream_becomes_one_event() -> None:
    piece = _piece(Ending(Outcome.COMPLETED, body=b'{\n  "choices": []\n}'))
    assert orjson.loads(piece.removeprefix(b"data: ")) == {"choices": []}
    assert piece.count(b"\n") == 2
