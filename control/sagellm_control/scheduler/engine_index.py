"""The engines that may serve one kind of demand, sorted in every way that a placement has asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .engine_load import EngineLoad
from .ready_speeds import ReadySpeeds
from .ring import Ring
from .shelf import Shelves, level_of

Measure = Callable[[EngineLoad], int | None]
"""An engine's level on a shelf; None: it does not belong there."""


class EngineIndex:
    """READY engines that answer to one name and take one kind of request, and those of them that are open.

    Shelves and the ring are made when they are first asked for (at the cost of one look at every engine) and kept up
    from then on, so a placement pays only for the orders that it uses.
    """

    def __init__(self) -> None:
        self.ready: dict[str, float] = {}
        """Prompt tokens a second of each."""
        self.speeds = ReadySpeeds()
        self.by_turn: dict[str, None] = {}
        self._shelves: dict[str, tuple[Measure, Shelves]] = {}
        self._ring: Ring | None = None
        self._drawn: list[str] = []
        self._position: dict[str, int] = {}

    def update(self, engine: str, load: EngineLoad) -> None:
        """Sort the engine in as it is now."""
        if engine not in self.ready:
            self.ready[engine] = load.row.speed.prefill_tps
            self.speeds.add(self.ready[engine])
            if self._ring is not None:
                self._ring.add(engine)
        if not load.open:
            self._close(engine)
            return
        if engine not in self._position:
            self.by_turn[engine] = None
            self._position[engine] = len(self._drawn)
            self._drawn.append(engine)
        for measure, shelves in self._shelves.values():
            level = measure(load)
            if level is None:
                shelves.remove(engine)
            else:
                shelves.put(engine, level)

    def _close(self, engine: str) -> None:
        position = self._position.pop(engine, None)
        if position is None:
            return
        del self.by_turn[engine]
        last = self._drawn.pop()
        if last != engine:
            self._drawn[position] = last
            self._position[last] = position
        for _, shelves in self._shelves.values():
            shelves.remove(engine)

    def remove(self, engine: str) -> None:
        """The engine takes nothing any more."""
        self._close(engine)
        if (tps := self.ready.pop(engine, None)) is not None:
            self.speeds.remove(tps)
        if self._ring is not None:
            self._ring.remove(engine)

    def end_turn(self, engine: str) -> None:
        """Everybody else has a turn before it."""
        if engine in self.by_turn:
            del self.by_turn[engine]
            self.by_turn[engine] = None

    def shelves(self, name: str, loads: dict[str, EngineLoad]) -> Shelves:
        """The open engines by one of ``MEASURES``."""
        known = self._shelves.get(name)
        if known is not None:
            return known[1]
        measure, shelves = MEASURES[name], Shelves()
        self._shelves[name] = (measure, shelves)
        for engine in self.by_turn:
            level = measure(loads[engine])
            if level is not None:
                shelves.put(engine, level)
        return shelves

    @property
    def ring(self) -> Ring:
        """The READY engines, open or not, so that a key keeps its place while its engine is full."""
        if self._ring is None:
            self._ring = Ring()
            for engine in self.ready:
                self._ring.add(engine)
        return self._ring

    def draw(self, number: int, most: int) -> Iterator[str]:
        """Up to ``most`` different open engines, the first two of them wherever the number points to."""
        size = len(self._drawn)
        if not size:
            return
        first = number % size
        yield self._drawn[first]
        if size > 1:
            step = 1 + number // size % (size - 1)
            yield self._drawn[(first + step) % size]
            others = (n for n in range(1, size) if n != step)
            for other, _ in zip(others, range(most - 2), strict=False):
                yield self._drawn[(first + other) % size]


RECENT_STEPS = 32
"""Levels of recent work between a value and twice it: 2 % apart, since it is known, and to be kept even."""

MEASURES: dict[str, Measure] = {
    "requests": lambda load: load.requests,
    "recent": lambda load: int(RECENT_STEPS * load.recent),
    "drain": lambda load: level_of(load.drain_ms()),
    "step": lambda load: int(load.step_ms(1)) if load.requests else None,
    "kv_free": lambda load: level_of(max(0.0, load.kv_free)),
}
"""``requests`` on it; ``recent``: prompt work that it was handed lately, on a log scale; ``drain``: ms of work that it
holds, on a log scale; ``step``: ms that a decode step takes with one more answer, of those that run something;
``kv_free``: KV tokens that it may still promise, on a log scale."""
