"""Those that wait, under their ranks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..scheduler.engine_load import Reservation
from ..scheduler.forecast import Forecast
from ..wire.request import Arrival


def _nobody(_engine: str | None) -> None:
    pass


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that wants a place, has one, or has had one."""

    arrival: Arrival
    forecast: Forecast
    granted: Callable[[str | None], None] = _nobody
    """Called once: with the engine when it is its turn (the place is taken), or with None: it will not get one."""
    rank: float = 0.0
    number: int = 0
    """In the order of arrival, among equal ranks."""
    start_ms: float = 0.0
    charge_ms: float = 0.0
    """What its flow has been charged, under a fair order."""
    flow: str = ""
    """See ``Order.flow``."""
    charged: bool = False
    stepped_back: bool = False
    """It is late, and waits behind those that are in time."""
    refused: bool = False
    """It was sent away as it is too late for it."""
    taken: Reservation | None = None
    """What it holds of its engine."""

    @property
    def key(self) -> tuple[float, int]:
        return (self.rank, self.number)


class Line:
    """A sorted list of tickets. To take the first one costs the same however many there are."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Ticket | None]] = []
        self._first = 0
        """What stands before it has gone."""
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._entries) - self._first

    def __iter__(self) -> Iterator[Ticket]:
        for at in range(self._first, len(self._entries)):
            ticket = self._entries[at][2]
            if ticket is not None:
                yield ticket

    def __getitem__(self, position: int) -> Ticket:
        """The ticket at a position, from 0."""
        ticket = self._entries[self._first + position][2]
        assert ticket is not None
        return ticket

    def add(self, ticket: Ticket) -> None:
        """Stand in line at its rank."""
        if not ticket.number:
            self._numbers += 1
            ticket.number = self._numbers
        self._entries.insert(bisect_left(self._entries, ticket.key, self._first, key=_key), (*ticket.key, ticket))

    def remove(self, ticket: Ticket) -> bool:
        """Stand in line no more; False: it did not."""
        position = self.position(ticket)
        if position is not None:
            self.pop(position)
        return position is not None

    def pop(self, position: int) -> None:
        """Take out whoever stands there."""
        if position:
            del self._entries[self._first + position]
            return
        self._entries[self._first] = (float("-inf"), 0, None)
        self._first += 1
        if self._first > 64 and self._first * 2 > len(self._entries):
            del self._entries[: self._first]
            self._first = 0

    def position(self, ticket: Ticket) -> int | None:
        """From 0; None: it does not wait."""
        at = bisect_left(self._entries, ticket.key, self._first, key=_key)
        found = at < len(self._entries) and self._entries[at][2] is ticket
        return at - self._first if found else None

    def clear(self) -> list[Ticket]:
        """Send everybody away; who that was, in order."""
        waiting = list(self)
        self._entries, self._first = [], 0
        return waiting


def _key(entry: tuple[float, int, Ticket | None]) -> tuple[float, int]:
    return entry[:2]
