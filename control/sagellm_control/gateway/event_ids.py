"""Numbers the events of a stream, so that a client that lost its connection can say where it stopped.

The output log numbers what it holds by attempt and sequence (``1-7``), and one entry may hold several events. Its last
event has the entry's own number, those before it are its parts: ``1-7.1``, ``1-7.2``, ``1-7``. So every event has an id
of its own, and none is sent twice or left out, wherever the connection broke.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..wire.event import Event

_EVENT = re.compile(rb".+?(?:\r\n\r\n|\n\n|\Z)", re.DOTALL)
_ID = re.compile(r"(\d{1,9})-(\d{1,9})(?:\.(\d{1,9}))?", re.ASCII)


@dataclass(slots=True, frozen=True)
class EventId:
    """The last event that a client has."""

    attempt: int
    sequence: int
    part: int = 0
    """So many events of the entry; 0: all of them."""

    @classmethod
    def parse(cls, text: str) -> EventId:
        """Read a ``Last-Event-ID``.

        Raises:
            ValueError: it is none of ours.
        """
        match = _ID.fullmatch(text.strip())
        if match is None or (match[3] is not None and not (int(match[2]) and int(match[3]))):
            raise ValueError(f"{text!r} is no id of an event")
        return cls(int(match[1]), int(match[2]), int(match[3] or 0))

    @property
    def entry_before(self) -> tuple[int, int]:
        """Position behind which the output log is to be read."""
        return (self.attempt, self.sequence - 1 if self.part else self.sequence)


class EventNumbering:
    """Writes ``id:`` lines, and leaves out what the client has."""

    def __init__(self, after: EventId | None = None) -> None:
        self._after = after

    def write(self, event: Event, events: bytes) -> bytes:
        """The server-sent events that an entry of the log stands for, numbered.

        Args:
            events: whole ones; those of an end are not its payload as it is.
        """
        if event.sequence == 0:
            return events  # made up here: nobody could come back behind it
        pieces = _split(events)
        have = self._after
        skipped = have.part if have is not None and event.position == (have.attempt, have.sequence) else 0
        numbered: list[bytes] = []
        for number, piece in enumerate(pieces, 1):
            if number > skipped:
                part = b"" if number == len(pieces) else b".%d" % number
                numbered.append(b"id: %d-%d%s\n%s" % (event.attempt, event.sequence, part, piece))
        return b"".join(numbered)


def _split(events: bytes) -> list[bytes]:
    if b"\r" in events or not events.endswith(b"\n\n"):
        return _EVENT.findall(events)
    # As most engines write: three times as fast.
    return [piece + b"\n\n" for piece in events[:-2].split(b"\n\n")]
