"""What the body of an engine's error says: OpenAI's form, vLLM's older one, FastAPI's, plain text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import orjson

LONGEST_TEXT = 1000
"""Characters of a plain text that are shown; what is longer was not written for a client."""


@dataclass(frozen=True, slots=True)
class ErrorSaid:
    """An engine's words; what it does not say is empty or None."""

    message: str
    type: str = ""
    code: str | int | None = None
    param: str | None = None


def error_said(body: bytes) -> ErrorSaid:
    """Read the body of an answer with an error status, or of one that says in it that it has failed."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ErrorSaid(_plain(body))
    if isinstance(said, str):
        return ErrorSaid(_one_line(said))
    fields = _fields(said)
    error = fields.get("error", fields)
    if isinstance(error, str):
        return ErrorSaid(error)
    fields = _fields(error)
    kind, code, param = fields.get("type"), fields.get("code"), fields.get("param")
    return ErrorSaid(
        message=_message(fields),
        type=kind if isinstance(kind, str) else "",
        code=code if isinstance(code, str | int) and not isinstance(code, bool) and code != "" else None,
        param=param if isinstance(param, str) else None,
    )


def _message(fields: dict[str, Any]) -> str:
    detail = fields.get("detail")
    if isinstance(detail, list):  # FastAPI's: an object for each field that is wrong
        messages = [_fields(item).get("msg") for item in cast("list[object]", detail)]
        detail = "; ".join(message for message in messages if isinstance(message, str))
    found = (fields.get("message"), detail, _fields(detail).get("message"))
    return next((words for words in found if isinstance(words, str) and words), "")


def _plain(body: bytes) -> str:
    try:
        text = _one_line(body.decode())
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() and not text.startswith("<") else ""  # a page is for browsers


def _one_line(text: str) -> str:
    return " ".join(text.split())[:LONGEST_TEXT]


def _fields(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
