"""The slots of one engine, for all who send it requests: an engine with several models has a reader for each of them.

Each model has at least one slot in its row, so an engine with more models than slots is assigned more than it takes at
once. What is too much waits in the worker, where it can still be given back, and not in the engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class SharedSlots:
    """So many requests run on the engine at once, whoever sends them."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._taken = 0
        self._readers: deque[Callable[[], None]] = deque()

    def join(self, start_held: Callable[[], None]) -> None:
        """Call this whenever a slot comes free, by turns with what others have joined with."""
        self._readers.append(start_held)

    def leave(self, start_held: Callable[[], None]) -> None:
        """Call it no more."""
        self._readers.remove(start_held)

    def take(self) -> bool:
        """Take a slot; False: none is free."""
        if self._taken >= self._number:
            return False
        self._taken += 1
        return True

    def give_back(self) -> None:
        """A request that had a slot has ended."""
        self._taken -= 1
        self._offer()

    def resize(self, number: int) -> None:
        """The engine has so many slots now; what runs beyond them is let run."""
        self._number = number
        self._offer()

    def _offer(self) -> None:
        for _ in range(len(self._readers)):
            # Whoever is asked first now is asked last the next time.
            start_held = self._readers[0]
            self._readers.rotate(-1)
            start_held()
