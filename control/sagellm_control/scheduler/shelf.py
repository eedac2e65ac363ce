"""Engines on shelves: ordered by a coarse number, at a cost that does not grow with how many there are."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator


class Shelves:
    """Engine -> level, with the engines of each level in the order in which they came to it.

    An engine that changes its level costs O(log levels); levels are few, because they are coarse (see ``level_of``).
    """

    def __init__(self) -> None:
        self._levels: list[int] = []
        self._engines: dict[int, dict[str, None]] = {}
        self._level: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._level)

    def put(self, engine: str, level: int) -> None:
        """The engine is at this level now; at the same level it keeps its turn."""
        before = self._level.get(engine)
        if before == level:
            return
        if before is not None:
            self.remove(engine)
        self._level[engine] = level
        shelf = self._engines.get(level)
        if shelf is None:
            shelf = self._engines[level] = {}
            insort(self._levels, level)
        shelf[engine] = None

    def remove(self, engine: str) -> None:
        """Take it off, if it is there."""
        level = self._level.pop(engine, None)
        if level is None:
            return
        shelf = self._engines[level]
        del shelf[engine]
        if not shelf:
            del self._engines[level]
            del self._levels[bisect_left(self._levels, level)]

    @property
    def lowest(self) -> int | None:
        """The lowest level that an engine is at."""
        return self._levels[0] if self._levels else None

    def ascending(self) -> Iterator[str]:
        """All engines, those of the lowest level first."""
        for level in self._levels:
            yield from self._engines[level]

    def descending(self, start: int | None = None) -> Iterator[str]:
        """All engines at ``start`` or below it, those of the highest level first."""
        top = len(self._levels) if start is None else bisect_left(self._levels, start + 1)
        for position in range(top - 1, -1, -1):
            yield from self._engines[self._levels[position]]


STEPS_PER_DOUBLING = 8
"""Levels between a value and twice it: 9 % apart, which is finer than what is known about an engine's load."""


def level_of(value: float) -> int:
    """The level of a value ≥ 0 of any unit, on a logarithmic scale; inf is above all others."""
    if value == math.inf:
        return 1 << 20
    return int(STEPS_PER_DOUBLING * math.log2(1.0 + value))
