"""What a scheduler believes about the engines of a pool: a snapshot that its commits keep correcting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..wire.engine import EngineRow
from ..wire.request import Arrival

ANY_MODEL = ""
"""What a request asks for that asks for the pool's own model."""


class _Index:
    """READY engines that answer to one name, and those of them that have room."""

    def __init__(self) -> None:
        self.ready: dict[str, None] = {}
        # Engines with room by number of requests on them, and by turn; a dict keeps the order in which they came.
        self.by_load: dict[int, dict[str, None]] = {}
        self.by_turn: dict[str, None] = {}

    def add(self, engine: str, load: int, free: int) -> None:
        self.ready[engine] = None
        if free > 0:
            self.by_load.setdefault(load, {})[engine] = None
            self.by_turn.setdefault(engine)
        else:
            self.by_turn.pop(engine, None)

    def move(self, engine: str, load_before: int) -> None:
        """Take the engine out of its load, before it is added under another."""
        engines = self.by_load.get(load_before)
        if engines is not None:
            engines.pop(engine, None)
            if not engines:
                del self.by_load[load_before]

    def remove(self, engine: str, load: int) -> None:
        self.move(engine, load)
        self.ready.pop(engine, None)
        self.by_turn.pop(engine, None)

    def end_turn(self, engine: str) -> None:
        if engine in self.by_turn:
            del self.by_turn[engine]
            self.by_turn[engine] = None


class OpenEngines:
    """The READY engines and their free places, indexed so that a choice costs the same for 2 engines and for 2000.

    There is an index over all engines, and one for each adapter that was asked for, made when it first is.
    """

    def __init__(self) -> None:
        self._rows: dict[str, EngineRow] = {}
        self._free: dict[str, int] = {}
        self._indexes: dict[str, _Index] = {ANY_MODEL: _Index()}
        self.places = 0
        """Free places on all engines."""

    @property
    def ready(self) -> int:
        """READY engines."""
        return len(self._free)

    @property
    def open(self) -> int:
        """READY engines with room."""
        return len(self._indexes[ANY_MODEL].by_turn)

    def knows(self, engine: str) -> bool:
        """Whether the engine's row has been read."""
        return engine in self._rows

    def learn(self, rows: Iterable[EngineRow]) -> None:
        """Take over rows as they were just read."""
        for row in rows:
            free = self._free.get(row.engine_id)
            self.close(row.engine_id)
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
        row = self._rows.get(engine)
        before = self._free.get(engine)
        if row is None or before == free:
            return
        self._free[engine] = free
        self.places += max(0, free) - max(0, before or 0)
        for index in self._indexes_of(row):
            if before is not None:
                index.move(engine, _load(row, before))
            index.add(engine, _load(row, free), free)

    def take(self, engine: str) -> None:
        """One place fewer, and the engine's turn is over."""
        self.set_places(engine, self._free[engine] - 1)
        for index in self._indexes_of(self._rows[engine]):
            index.end_turn(engine)

    def give_back(self, engine: str) -> None:
        """A place that was taken was not used."""
        if engine in self._free:
            self.set_places(engine, self._free[engine] + 1)

    def close(self, engine: str) -> None:
        """The engine takes nothing any more."""
        free = self._free.pop(engine, None)
        if free is not None:
            self.places -= max(0, free)
            row = self._rows[engine]
            for index in self._indexes_of(row):
                index.remove(engine, _load(row, free))

    def forget(self, engine: str) -> None:
        """The engine has gone, and its row with it."""
        self.close(engine)
        self._rows.pop(engine, None)

    def by_load(self, request: Arrival) -> Iterator[str]:
        """Engines with room that may take the request, those with the fewest requests first."""
        index = self._index(request.model)
        # There are few different loads: whoever sorts by load keeps them even.
        for load in sorted(index.by_load):
            yield from self._not_excluded(request, index, index.by_load[load])

    def by_turn(self, request: Arrival) -> Iterator[str]:
        """Engines with room that may take the request, the one whose turn is longest ago first."""
        index = self._index(request.model)
        yield from self._not_excluded(request, index, index.by_turn)

    def answers_to(self, model: str) -> bool:
        """Whether a READY engine answers to this name."""
        return bool(self._index(model).ready)

    def _not_excluded(self, request: Arrival, index: _Index, engines: Iterable[str]) -> Iterator[str]:
        # Where every engine has failed it, any may try again: the number of attempts bounds that.
        anywhere = not request.excluded or index.ready.keys() <= request.excluded
        for engine in engines:
            if anywhere or engine not in request.excluded:
                yield engine

    def _index(self, model: str) -> _Index:
        index = self._indexes.get(model)
        if index is None:
            index = self._indexes[model] = _Index()
            for engine, free in self._free.items():
                row = self._rows[engine]
                if model in row.models:
                    index.add(engine, _load(row, free), free)
        return index

    def _indexes_of(self, row: EngineRow) -> Iterator[_Index]:
        yield self._indexes[ANY_MODEL]
        if len(self._indexes) > 1:
            for model in row.models:
                if index := self._indexes.get(model):
                    yield index


def _load(row: EngineRow, free: int) -> int:
    return max(0, row.slots + row.prefetch - free)
