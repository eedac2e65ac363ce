"""What an engine's error says, whatever form its body has."""

from __future__ import annotations

import orjson
import pytest

from sagellm_control.wire.engine_error import LONGEST_TEXT, ErrorSaid, error_said

MISSING = [
    {"type": "missing", "loc": ["body", "messages"], "msg": "Field required"},
    {"type": "int_type", "loc": ["body", "n"], "msg": "Input should be a valid integer"},
]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            {"error": {"message": "too long", "type": "x", "code": "y", "param": "n"}},
            ErrorSaid("too long", "x", "y", "n"),
        ),
        ({"error": "too long"}, ErrorSaid("too long")),
        (
            {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400},
            ErrorSaid("too long", "BadRequestError", 400),
        ),
        ({"message": "no", "type": [], "code": True, "param": 3}, ErrorSaid("no")),
        ({"detail": "Not Found"}, ErrorSaid("Not Found")),
        ({"detail": MISSING}, ErrorSaid("Field required; Input should be a valid integer")),
        ({"detail": [7, {"msg": None}]}, ErrorSaid("")),
        ({"detail": {"message": "deep"}}, ErrorSaid("deep")),
        ({"message": 3, "detail": None}, ErrorSaid("")),
        ("just a text", ErrorSaid("just a text")),
        ([], ErrorSaid("")),
        (3, ErrorSaid("")),
    ],
)
def test_json(body: object, said: ErrorSaid) -> None:
    assert error_said(orjson.dumps(body)) == said


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"Service busy\n\tcome later\n", "Service busy come later"),
        (b"x" * 5000, "x" * LONGEST_TEXT),
        (b"", ""),
        (b"<html><body>503</body></html>", ""),
        (b"\xff\xfe", ""),
        (b"\x00\x01", ""),
        (b'{"cut', '{"cut'),
    ],
)
def test_plain_text(body: bytes, message: str) -> None:
    assert error_said(body) == ErrorSaid(message)
