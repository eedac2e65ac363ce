"""A consistent-hash ring of engines."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterator

POINTS = 32
"""Of each engine on the ring: shares differ by about 1/√32, and whoever bounds the load evens that out."""


def place_of(key: str) -> int:
    """Where a key lies on the ring; the same in every process."""
    return int.from_bytes(hashlib.blake2b(key.encode(errors="replace"), digest_size=8).digest())


class Ring:
    """Engines on a ring (Karger et al. 1997): one that comes or goes moves only the keys next to its own points."""

    def __init__(self) -> None:
        self._points: list[tuple[int, str]] = []
        self._engines: set[str] = set()

    def __len__(self) -> int:
        return len(self._engines)

    def add(self, engine: str) -> None:
        """Put it on the ring, if it is not there."""
        if engine not in self._engines:
            self._engines.add(engine)
            for number in range(POINTS):
                insort(self._points, (place_of(f"{engine}#{number}"), engine))

    def remove(self, engine: str) -> None:
        """Take it off, if it is there."""
        if engine in self._engines:
            self._engines.discard(engine)
            for number in range(POINTS):
                point = (place_of(f"{engine}#{number}"), engine)
                del self._points[bisect_left(self._points, point)]

    def walk(self, key: str, most: int) -> Iterator[str]:
        """The engines that a key meets on its way round the ring, each once, no more than ``most``."""
        start = bisect_left(self._points, (place_of(key), ""))
        seen: set[str] = set()
        for step in range(len(self._points)):
            engine = self._points[(start + step) % len(self._points)][1]
            if engine not in seen:
                seen.add(engine)
                yield engine
                if len(seen) >= most:
                    return
