"""What an engine sends only so that nobody takes the connection for dead: it tells nothing of the answer."""

from __future__ import annotations

import re

_KEEP_ALIVE = re.compile(rb"(?:(?::[^\r\n]*|data:[ \t]*)?[\r\n])*(?::[^\r\n]*)?")


def only_keeps_alive(piece: bytes) -> bool:
    """Whether a piece of an event stream holds nothing but comments, blank lines and data that is empty."""
    if piece.startswith(b"data: {"):
        return False  # nearly each is so, and this takes a fifth of the time
    return _KEEP_ALIVE.fullmatch(piece) is not None
