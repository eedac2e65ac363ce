"""A clock that a test moves by hand; the store's steps take it for the time."""

from __future__ import annotations

START_MS = 1_800_000_000_000.0
"""In 2027; what counts is only that it is not the server's own time, so that a step that mixes the two shows."""


class Clock:
    """Stands still until it is moved. ``Store(settings, now=clock)``."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> str:
        """The time as the steps expect it."""
        return f"{self.now_ms:.3f}"

    def advance(self, ms: float) -> None:
        """Let time pass."""
        self.now_ms += ms
