"""Finds pools that nobody has announced: what somebody has put into their streams would never be read."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

from redis.exceptions import RedisError

from ..store.connect import Store
from ..store.inspect import list_pools
from ..store.steps.mend import Repair
from ..store.trouble import Trouble
from ..wire.keys import escaped, pool_of_intake, read_name
from . import metrics

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
SCAN_PAGE = 1000
"""Keys in one look, some 0.2 ms of the server: with a million requests a round takes an hour or two."""


class UnknownPoolKeeper:
    """Walks through all keys. A pool with arrivals is announced, so that its schedulers bury what is no request, and
    what is one waits for an engine as in any other; it is forgotten as others are."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._cursors: dict[Any, int] = {}
        """Server -> where the walk goes on."""
        self._found = set[str]()
        """Pools with arrivals that have not been compared with those that are known."""

    async def run(self) -> None:
        """Keep until cancelled."""
        trouble = Trouble(log, "cannot look for pools that nobody has announced")
        while True:
            await asyncio.sleep(LOOK_EVERY_S * random.uniform(0.75, 1.25))
            with trouble.told():
                await self.look()

    async def look(self) -> list[str]:
        """Look at the next page of keys of each server; the pools that are announced from now on.

        Raises:
            RedisError, OSError: of a server; the others have been looked at.
        """
        trouble: Exception | None = None
        servers = await self.store.servers()
        self._cursors = {server: self._cursors.get(server, 0) for server in servers}
        for server in servers:
            try:
                await self._scan(server)
            except (RedisError, OSError) as error:
                trouble = error
        announced: list[str] = []
        known = await list_pools(self.store) if self._found else []
        for pool in sorted(self._found):
            if pool not in known:
                await self._announce(pool)
                announced.append(pool)
            self._found.discard(pool)
        if trouble is not None:
            raise trouble
        return announced

    async def _scan(self, server: Any) -> None:
        keys = self.store.keys
        pattern = escaped(keys.namespace) + ":{*}:intake:*"
        cursor, names = await server.scan(self._cursors[server], match=pattern, count=SCAN_PAGE, _type="STREAM")
        for name in names:
            pool = pool_of_intake(keys, read_name(name))
            # What is no text names no model (see list_pools).
            if pool is not None and pool.isprintable() and await server.xlen(name):
                self._found.add(pool)
        self._cursors[server] = cursor

    async def _announce(self, pool: str) -> None:
        metrics.begin(pool)
        await self.store.commands.sadd(self.store.keys.pools(), pool)
        metrics.REPAIRS.labels(pool, Repair.UNKNOWN_POOL).inc()
        log.warning("pool %s: it has arrivals, and no engine was ever registered for it", pool)
