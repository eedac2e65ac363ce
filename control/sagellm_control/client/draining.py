"""How fast a pool drains while requests wait in it."""

from __future__ import annotations

from collections import deque

KNOWN_AFTER_S = 5.0
"""Requests have to have waited for so long before the rate at which the pool drains means anything."""
MEMORY_S = 10.0
"""What was longer ago counts no more, where enough has ended since."""
ENOUGH = 10
"""So many endings say how fast it goes."""


class Draining:
    """A pool in which requests wait without a pause, so that it is the engines that bound how fast it drains.

    The rate is taken from ending to ending, and not from look to look: where answers take long, most looks fall between
    two of them, and the time since the last says nothing until it is longer than usual.
    """

    def __init__(self, now_s: float, ended: int) -> None:
        self._since_s = now_s
        self._looked_s = now_s
        self._seen = deque([(now_s, ended)])
        """When requests were seen to have ended, and how many had by then; the first is how it began, until there are
        others: what ran then had begun before."""
        self._from_start = True

    def look(self, now_s: float, ended: int) -> None:
        """So many have ended by now, since ever."""
        self._looked_s = now_s
        seen = self._seen
        if ended == seen[-1][1] or now_s <= seen[-1][0]:
            return
        seen.append((now_s, ended))
        if ended < seen[0][1]:  # its counters have begun anew
            self._seen, self._from_start = deque([(now_s, ended)]), False
            return
        if self._from_start and len(seen) > 2:
            self._from_start = False
            seen.popleft()
        while len(seen) > 2 and now_s - seen[1][0] >= MEMORY_S and ended - seen[1][1] >= ENOUGH:
            seen.popleft()

    @property
    def rate(self) -> float:
        """Requests a second, as of the last look; 0: not known (yet)."""
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        if last == first or self._looked_s - self._since_s < KNOWN_AFTER_S:
            return 0.0
        if self._from_start:
            return (last - first) / (self._looked_s - first_s)
        rate = (last - first) / (last_s - first_s)
        # Nothing has ended since: the next may be due, but it has not come yet.
        return min(rate, (last - first + 1) / (self._looked_s - first_s))
