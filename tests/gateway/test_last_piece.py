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


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            400,
            b'{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}',
            ("too long", "BadRequestError", 400),
        ),
        (
            422,
            b'{"detail":[{"loc":["body","n"],"msg":"Field required"}]}',
            ("Field required", "invalid_request_error", 422),
        ),
        (404, b'{"detail":"Not Found"}', ("Not Found", "not_found_error", 404)),
        (413, b"too much\nfor me", ("too much for me", "invalid_request_error", 413)),
        (422, b"<html>", ("The engine answered 422.", "invalid_request_error", 422)),
        (400, b"", ("The engine answered 400.", "invalid_request_error", 400)),
    ],
)
def test_an_engines_error_in_another_form_becomes_openais(
    status: int, body: bytes, said: tuple[str, str, object]
) -> None:
    error = _error_of(_piece(Ending(Outcome.REFUSED, status, body=body)))
    assert error == dict(zip(("message", "type", "code"), said, strict=True)) | {"param": None}


def test_what_the_last_engine_said_of_its_failure_is_passed_on() -> None:
    failed = Ending(Outcome.FAILED, 503, code="engine_error", message="engine e answered 503", body=b"busy")
    error = _error_of(_piece(failed))
    assert (error["message"], error["type"], error["code"]) == ("busy", "service_unavailable_error", 503)


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[]"])
def test_of_a_failure_of_which_it_said_nothing_we_say_so(body: bytes) -> None:
    failed = Ending(Outcome.FAILED, 503, code="engine_error", message="engine e answered 503", body=body)
    error = _error_of(_piece(failed))
    assert (error["message"], error["code"]) == ("engine e answered 503", "engine_error")


def test_a_whole_answer_in_place_of_a_stream_becomes_one_event() -> None:
    piece = _piece(Ending(Outcome.COMPLETED, body=b'{\n  "choices": []\n}'))
    assert orjson.loads(piece.removeprefix(b"data: ")) == {"choices": []}
    assert piece.count(b"\n") == 2
