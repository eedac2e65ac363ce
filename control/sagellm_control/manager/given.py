"""Arguments that nobody gave: they equal their default, and can be told from one that was given."""

from __future__ import annotations

from typing import Any


class DefaultText(str):
    """A text that stands in a signature as its default."""

    __slots__ = ()


class DefaultFloat(float):
    """A number that stands in a signature as its default."""

    __slots__ = ()


class DefaultInt(int):
    """A whole number that stands in a signature as its default."""

    __slots__ = ()


def given(value: Any) -> bool:
    """Whether a caller gave the argument."""
    return value is not None and not isinstance(value, DefaultText | DefaultFloat | DefaultInt)
