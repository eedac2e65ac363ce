"""The answers that run on an engine, by when they will be whole."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from .job import Job


class Answers:
    """Each makes one token in every decode step."""

    def __init__(self) -> None:
        self.step = 0
        """Decode steps that the engine has made."""
        self._ends: list[tuple[int, int, Job]] = []  # the step after which it is whole
        self._entered = 0

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def steps_to_go(self) -> int:
        """Until the next one is whole."""
        return self._ends[0][0] - self.step

    def add(self, job: Job, left: int) -> None:
        """One more, with so many tokens to make."""
        self._entered += 1
        heapq.heappush(self._ends, (self.step + left, self._entered, job))

    def pop_whole(self) -> Iterator[Job]:
        """Those that have ended, in the order in which they did."""
        while self._ends and self._ends[0][0] <= self.step:
            yield heapq.heappop(self._ends)[2]

    def pop_last(self) -> tuple[Job, int]:
        """The one that came last, and how many tokens it has still to make."""
        last = max(self._ends, key=lambda end: end[1])
        self._ends.remove(last)
        heapq.heapify(self._ends)
        return last[2], last[0] - self.step

    def clear(self) -> list[Job]:
        """Take all away."""
        ends, self._ends = sorted(self._ends), []
        return [job for _, _, job in ends]

    def to_go(self, steps: int) -> list[tuple[int, Job]]:
        """Each with how many tokens it has still to make, so many steps from now."""
        return [(end - self.step - steps, job) for end, _, job in self._ends]
