"""JSON of what programs pass in, which may be anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

_OPTIONS = orjson.OPT_NON_STR_KEYS


def as_json(fields: Mapping[str, Any]) -> bytes:
    """The fields as a JSON object; a value that JSON does not know is written as its text.

    Raises:
        ValueError: names the field that cannot be written, and says why.
    """
    try:
        return orjson.dumps(fields, default=str, option=_OPTIONS)
    except TypeError as whole:
        for name, value in fields.items():
            try:
                orjson.dumps(value, default=str, option=_OPTIONS)
            except TypeError as error:
                raise ValueError(f"{name} cannot be written as JSON: {error}") from error
        raise ValueError(f"the fields cannot be written as JSON: {whole}") from whole


def printable(value: object) -> str:
    """The value's text, in which whatever is no Unicode is spelled out."""
    return str(value).encode(errors="backslashreplace").decode()
