"""When an engine is asked anew what it is: after a pause, or at once where somebody wants to know."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sagellm_control.stopping import is_set_within

SURVEY_PATIENCE_S = 5.0
"""An engine that is back is not kept from its requests for longer by a survey that hangs."""


class Surveys:
    """One look at an engine after the other."""

    def __init__(self) -> None:
        self._due = asyncio.Event()
        self._looked = asyncio.Event()
        """Set when the next look to begin is over."""

    def soon(self) -> None:
        """The next one need not wait."""
        self._due.set()

    async def again(self) -> None:
        """It answers again, so it may be another one: returns when it has been surveyed, or soon if that hangs."""
        looked = self._looked
        self._due.set()
        await is_set_within(looked, SURVEY_PATIENCE_S)

    async def run(self, look: Callable[[], Awaitable[None]], pause_s: Callable[[], Awaitable[float]]) -> None:
        """Look until cancelled.

        Args:
            pause_s: asked behind each look how long (s) it is to the next one.
        """
        while True:
            self._due.clear()
            looked, self._looked = self._looked, asyncio.Event()
            await look()
            looked.set()
            await is_set_within(self._due, await pause_s())
