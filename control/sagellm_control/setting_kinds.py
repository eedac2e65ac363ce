"""What kind of value a setting takes, and what is read from the text of an environment variable for it."""

from __future__ import annotations

import json
import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def arms(field: FieldInfo) -> tuple[Any, ...]:
    """The types it may have: the parts of a union, or the one."""
    if typing.get_origin(field.annotation) in (typing.Union, types.UnionType):
        return typing.get_args(field.annotation)
    return (field.annotation,)


def is_list(field: FieldInfo) -> bool:
    """Whether it holds several values: a flag to repeat, a comma separated variable."""
    return any(typing.get_origin(kind) in (list, tuple, set) for kind in arms(field))


def is_number(field: FieldInfo) -> bool:
    """Whether it holds a number, and not true or false, which Python takes for 1 and 0."""
    return any(kind in (int, float) for kind in arms(field)) and bool not in arms(field)


def read_text(field: FieldInfo, text: str) -> Any:
    """An environment variable's text as what pydantic is to check."""
    if type(None) in arms(field) and text.lower() == "none":
        return None
    plain = all(isinstance(kind, type) and not issubclass(kind, dict | BaseModel) for kind in arms(field))
    if text[0] in "[{" and not plain:
        try:
            return json.loads(text)
        except ValueError:
            return text  # pydantic says what it wants instead
    if is_list(field):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text
