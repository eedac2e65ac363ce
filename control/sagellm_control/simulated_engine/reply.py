"""What every wire can do with a generation: give its stream in parts, or the whole answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .batcher import Work
from .generation import Generation


@dataclass(frozen=True, slots=True)
class TokenEvents:
    """The events of one answer, serialised once: event i is prefix + pieces[i] + suffix (0: first_prefix)."""

    first_prefix: bytes
    prefix: bytes
    suffix: bytes
    pieces: list[bytes]


class Reply(Protocol):
    generation: Generation

    def opening(self) -> bytes:
        """Server-sent events before the first token; may be empty."""
        ...

    def events(self) -> list[TokenEvents]:
        """The token events of each choice."""
        ...

    def closing(self, works: Sequence[Work]) -> bytes:
        """Server-sent events after the last token."""
        ...

    def whole(self, works: Sequence[Work]) -> bytes:
        """The JSON body of an answer that is not streamed."""
        ...
