"""Server-sent events: cut a stream of bytes at the blank lines, and read the `data` of an event."""

from __future__ import annotations

EVENT_LIMIT_BYTES = 16 * 2**20  # one event; far above any token, below what would hurt the store
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # may stand before the first event
_ENDINGS = (b"\n\n", b"\n\r\n")  # "\r\n\r\n" ends in the second; a mixture is allowed by the standard


class EventTooLarge(ValueError):
    """An event is longer than the limit."""


class EventSplitter:
    """Turns pieces of a stream, cut anywhere, into pieces that hold whole events.

    A piece that ends with an event while nothing is held back goes through as it is, without a copy: that is
    how engines write. What is held back is searched only once: a long event costs linear time.
    """

    __slots__ = ("_held", "_limit")

    def __init__(self, limit_bytes: int = EVENT_LIMIT_BYTES) -> None:
        self._held = bytearray()
        self._limit = limit_bytes

    def feed(self, piece: bytes) -> bytes:
        """The whole events that `piece` completes, or b"". Raises EventTooLarge."""
        held = self._held
        if not held and piece.endswith(_ENDINGS):
            return piece
        seam = max(len(held) - 2, 0)  # an ending may begin in the last two bytes held
        held += piece
        bare, with_return = held.rfind(b"\n\n", seam), held.rfind(b"\n\r\n", seam)
        end = max(bare + 2 if bare >= 0 else 0, with_return + 3 if with_return >= 0 else 0)
        if len(held) - end > self._limit:
            raise EventTooLarge(f"an event of the stream is longer than {self._limit} bytes")
        whole = bytes(held[:end])
        del held[:end]
        return whole

    def finish(self) -> bytes:
        """The last event, given the blank line that the engine left out, or b""."""
        rest = bytes(self._held)
        self._held.clear()
        if not rest.strip():
            return b""
        return rest.rstrip(b"\r\n") + b"\n\n"


def data_of(events: bytes) -> list[bytes]:
    """The data of each event in `events` (whole ones); comments and events without data are left out."""
    found: list[bytes] = []
    lines: list[bytes] = []
    for line in events.removeprefix(BYTE_ORDER_MARK).splitlines():
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif not line and lines:
            found.append(b"\n".join(lines))
            lines.clear()
    if lines:
        found.append(b"\n".join(lines))
    return found
