"""What the scripts say about the room of engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class RoomNote:
    """The room of one engine."""

    free: int
    """Free places; of one that its pace keeps closed they may not be known: then 1."""
    kv_held: int | None = None
    """KV tokens that its reservations hold; None: not told."""
    paced_until_ms: float | None = None
    """Server time until which its pace keeps it closed while anything runs on it; None: not told."""


def read_note(score: float) -> RoomNote:
    """A score of the room: places that it gives now, or minus the time at which its pace opens it."""
    # Fewer slots than requests is possible, a time in the last century is not.
    return RoomNote(1, paced_until_ms=-score) if score < -1e9 else RoomNote(int(score))


@dataclass(slots=True, frozen=True)
class RoomAfter:
    """What a commit left."""

    notes: Mapping[str, RoomNote]
    """Of the engines that were looked at."""
    waiting: int
    """Requests in the waiting set."""
    open_engines: int
    """Engines with room."""

    @property
    def places(self) -> dict[str, int]:
        """Free places of the engines that were looked at."""
        return {engine: note.free for engine, note in self.notes.items()}


def read_room_after(engines: Sequence[str], answer: Sequence[Any]) -> RoomAfter:
    """Read the answer of ``admit`` or ``assign`` behind its results."""
    places, waiting, open_engines, bounds = cast("tuple[list[Any], int, int, list[Any]]", tuple(answer))
    notes = {engine: RoomNote(free) for engine, free in zip(engines, places, strict=True) if free is not None}
    for number, kv_held, paced_until in zip(bounds[::3], bounds[1::3], bounds[2::3], strict=True):
        note = notes[engines[int(number) - 1]]
        note.kv_held, note.paced_until_ms = int(kv_held), float(paced_until)
    return RoomAfter(notes, waiting, open_engines)
