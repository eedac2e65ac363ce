"""Whose fault an error object in an answer says that it is."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sagellm_workers.adapters.told_error import told_error


@pytest.mark.parametrize(
    ("error", "refuses"),
    [
        ({"code": 400}, True),
        ({"code": "400"}, True),
        ({"code": 500}, False),
        ({"code": 429}, False),
        ({"code": 401}, False),
        ({"code": "9" * 5000}, False),
        ({"type": "invalid_request_error", "code": "context_length_exceeded"}, True),
        ({"type": "BadRequestError", "code": None}, True),
        ({"type": "server_error", "code": None}, False),
        ({"type": "invalid_request_error", "code": 503}, False),
        ({}, False),
    ],
    ids=lambda value: str(value)[:60],
)
def test_whose_fault_it_is(error: dict[str, Any], refuses: bool) -> None:
    told = told_error(orjson.dumps({"error": {"message": "no", **error}}))
    assert told is not None
    assert (told.message, told.refuses) == ("no", refuses)


@pytest.mark.parametrize("data", [b"{}", b'{"error": null}', b'{"choices": []}', b"[DONE]", b'"error"', b'{"error":'])
def test_what_tells_of_none(data: bytes) -> None:
    assert told_error(data) is None
