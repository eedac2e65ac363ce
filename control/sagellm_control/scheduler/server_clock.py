"""The server's clock, without a round trip for each look at it."""

from __future__ import annotations

import time

from ..store.connect import SERVER_CLOCK, Store
from ..store.inspect import server_ms


class ServerClock:
    """Follows the clock that the scripts see; set it now and then, as two clocks drift apart."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._pool = pool
        self._ahead_ms = 0.0

    async def set(self) -> None:
        """Compare the two clocks."""
        before = time.time()
        server = await server_ms(self._store, self._pool)
        self._ahead_ms = server - (before + time.time()) / 2 * 1000

    def now_ms(self) -> float:
        """Now, by the server's clock (ms since the epoch)."""
        given = self._store.now()
        return time.time() * 1000 + self._ahead_ms if given == SERVER_CLOCK else float(given)
