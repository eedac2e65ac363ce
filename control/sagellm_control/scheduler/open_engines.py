"""What a scheduler believes about the engines of a pool: a snapshot that its commits keep correcting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..wire.engine import EngineRow
from ..wire.request import Arrival


class OpenEngines:
    """The READY engines and their free places, indexed so that a choice costs the same for 2 engines and for 2000."""

    def __init__(self) -> None:
        self._rows: dict[str, EngineRow] = {}
        self._free: dict[str, int] = {}
        # Engines with room, by number of requests on them; a dict keeps the order in which they came.
        self._by_load: list[dict[str, None]] = []
        self._turns: dict[str, None] = {}

    @property
    def ready(self) -> int:
        """READY engines."""
        return len(self._free)

    @property
    def open(self) -> int:
        """READY engines with room."""
        return len(self._turns)

    @property
    def places(self) -> int:
        """Free places on all engines."""
        return sum(self._free[engine] for engine in self._turns)

    def knows(self, engine: str) -> bool:
        """Whether the engine's row has been read."""
        return engine in self._rows

    def learn(self, rows: Iterable[EngineRow]) -> None:
        """Take over rows as they were just read."""
        for row in rows:
            free = self._free.pop(row.engine_id, None)
            if free is not None:
                self._unlist(row.engine_id, free)
            self._rows[row.engine_id] = row
            if free is not None:
                self.set_places(row.engine_id, free)

    def refresh(self, room: Mapping[str, int]) -> None:
        """Take over the free places of all READY engines as they were just read."""
        for engine in self._free.keys() - room.keys():
            self.close(engine)
        for engine, free in room.items():
            self.set_places(engine, free)

    def set_places(self, engine: str, free: int) -> None:
        """The engine has so many free places. One whose row is not known yet is left out until it is."""
        if engine not in self._rows:
            return
        before = self._free.get(engine)
        if before == free:
            return
        if before is not None:
            self._unlist(engine, before)
        self._free[engine] = free
        if free > 0:
            load = self._load(engine, free)
            while len(self._by_load) <= load:
                self._by_load.append({})
            self._by_load[load][engine] = None
            self._turns.setdefault(engine)

        else:
            self._turns.pop(engine, None)

    def take(self, engine: str) -> None:
        """One place fewer, and the engine's turn is over."""
        self.set_places(engine, self._free[engine] - 1)
        if engine in self._turns:
            del self._turns[engine]
            self._turns[engine] = None

    def close(self, engine: str) -> None:
        """The engine takes nothing any more."""
        free = self._free.pop(engine, None)
        if free is not None:
            self._unlist(engine, free)
        self._turns.pop(engine, None)

    def by_load(self) -> Iterator[str]:
        """Engines with room, those with the fewest requests first."""
        for engines in self._by_load:
            yield from engines

    def by_turn(self) -> Iterator[str]:
        """Engines with room, the one whose turn is longest ago first."""
        yield from self._turns

    def may_take(self, request: Arrival, engine: str) -> bool:
        """Whether the engine serves the model asked for, and did not fail the request before."""
        if request.model and request.model not in self._rows[engine].models:
            return False
        if engine not in request.excluded:
            return True
        # Where every engine has failed it, any may try again: the number of attempts bounds that.
        return self._free.keys() <= request.excluded

    def serves(self, model: str) -> bool:
        """Whether any engine whose row is known answers to this name."""
        return any(model in row.models for row in self._rows.values())

    def _load(self, engine: str, free: int) -> int:
        row = self._rows[engine]
        return max(0, row.slots + row.prefetch - free)

    def _unlist(self, engine: str, free: int) -> None:
        if free > 0:
            self._by_load[self._load(engine, free)].pop(engine, None)
