"""The priority classes of requests."""

from __future__ import annotations

from enum import IntEnum


class RequestPriority(IntEnum):
    """How urgent a request is; a lower number goes first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3
    BACKGROUND = 4

    label: str
    """The class as it stands in key names and metrics, e.g. ``normal``."""

    def __init__(self, _: int) -> None:
        self.label = self._name_.lower()

    @classmethod
    def parse(cls, text: str) -> RequestPriority:
        """Read a class name in any case, or its number.

        Raises:
            ValueError: names the classes that exist.
        """
        name = text.strip().upper()
        if name in cls.__members__:
            return cls[name]
        for priority in cls:
            if name == str(priority.value):
                return priority
        raise ValueError(f"unknown priority {text!r}: use one of {', '.join(cls.__members__)}")
