"""Keeps open what somebody still uses."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager


class OpenWhileUsed:
    """Something that is closed when it is given up, or when its last user has gone, whichever is later."""

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self._close = close
        self._users = 0
        self._kept = True

    def keep(self) -> None:
        """It stays open when nobody uses it, until it is given up."""
        self._kept = True

    async def give_up(self) -> None:
        """It is closed as soon as nobody uses it."""
        self._kept = False
        await self._close_if_idle()

    @asynccontextmanager
    async def used(self) -> AsyncGenerator[None, None]:
        """It stays open meanwhile."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            await self._close_if_idle()

    async def _close_if_idle(self) -> None:
        if not self._users and not self._kept:
            await self._close()
