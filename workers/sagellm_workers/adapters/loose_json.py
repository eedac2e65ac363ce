"""Reading JSON that others wrote: what is missing or of another type becomes empty, and nothing raises."""

from __future__ import annotations

import json
from typing import Any, cast

import orjson


def parsed(written: bytes) -> object:
    """Raises ValueError: it is no JSON, not even to Python's own parser.

    That one takes what engines in Python write and most clients read: NaN, halves of a surrogate pair.
    """
    try:
        return orjson.loads(written)
    except orjson.JSONDecodeError:
        try:
            return json.loads(written)
        except RecursionError as error:
            raise ValueError("nested too deep") from error


def mapping(value: object) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def items(value: object) -> list[object]:
    return cast(list[object], value) if isinstance(value, list) else []


def text(value: object) -> str:
    return value if isinstance(value, str) else ""


def count(value: object) -> int | None:
    """A whole number above 0, also one written as text (a label's value); None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        return None
    return value
