"""Pauses between attempts to reach a server that is away."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """Each pause is twice the last one, with jitter, so that those who lost the server together do not come together.

    Args:
        first_s, longest_s: the first pause and the longest one, before the jitter of half of it.
    """

    def __init__(self, first_s: float = 0.05, longest_s: float = 2.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    async def pause(self) -> None:
        """Wait; the next time for longer."""
        now_s, self._next_s = self._next_s, min(2 * self._next_s, self._longest_s)
        await asyncio.sleep(now_s * random.uniform(0.5, 1.5))

    def reset(self) -> None:
        """It was reached: the next pause is a short one."""
        self._next_s = self._first_s
