"""Compares what is derived with what is owned, and repairs what does not agree.

Every change of state is one script, so there is nothing to find unless somebody changed keys by hand, a server lost
some, or a script has a bug. Any number of keepers may look: what each believes to be wrong, a script checks again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, Iterable, Sequence

from redis.exceptions import RedisError, ResponseError

from ..store.connect import Store
from ..store.inspect import number, server_ms
from ..store.script import is_misplaced, remove_misplaced
from ..store.steps.mend import Census, Repair, census, heal, mend
from ..store.trouble import Trouble
from ..wire.keys import escaped, read_name
from ..wire.states import RequestState
from . import metrics

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
MOST_REQUESTS = 500
"""Of the waiting set, and of the reservations, at a time; the next time goes on where this one ended."""
LOOKS_A_ROUND = 150
"""All that waits has been looked at after so many looks (five minutes), however much it is, up to 1.5 million."""
MOST_PAGES = 20
"""Of the waiting set in one look, some 10 ms each: with a million waiting (14 pages) a look takes 0.3 s."""
MOST_ENGINES = 64
"""In one look, likewise."""
SCAN_PAGE = 1000
PAGE_PAUSE_S = 0.01
"""Between two pages of keys, or of the waiting set, so that they take no more than some percent of the server."""
LEASE_GRACE_MS = 10_000
"""A holder whose lease was lost has so long to renew it."""
TYPES_EVERY = 15
"""Looks, between which the types of keys are compared: what one of a wrong type stops goes on after half a minute, and
at once where a look stumbles over it."""
UNHEARD_MS = 2000
"""So long after an assignment its worker should have taken it."""


class Reconciler:
    """Looks after one pool. With nothing to do it costs two reads a look and writes nothing."""

    def __init__(self, store: Store, pool: str, *, spread_s: float = 1.0) -> None:
        self.store = store
        self.pool = pool
        self.keys = store.keys.pool(pool)
        self._spread_s = spread_s
        """A search begins at a random moment, so that one of many keepers does it for all."""
        self._cursor = 0
        """Where the walk through the waiting set goes on."""
        self._turn, self._held_turn = 0, 0
        """Engines at which the walks through the engines, and through what they hold, go on."""
        self._looks = 0
        self._unexplained = 0
        """Missing by the counters, and not found by a search: counters that somebody changed."""

    async def run(self) -> None:
        """Keep until cancelled."""
        trouble = Trouble(log, f"pool {self.pool}: cannot compare what is derived with what is owned")
        while True:
            await asyncio.sleep(LOOK_EVERY_S * random.uniform(0.75, 1.25))
            with trouble.told():
                await self.look()

    async def look(self) -> int:
        """Look once; how much was repaired."""
        by_type = self._looks % TYPES_EVERY == 0
        self._looks += 1
        repaired = await self._remove_misplaced() if by_type else 0
        try:
            return repaired + await self._compare()
        except (RedisError, OSError) as error:
            if not is_misplaced(error):
                raise
            return repaired + await self._remove_misplaced() + await self._compare()

    async def _compare(self) -> int:
        engines = await self._engines()
        count = await census(self.store, self.pool, engines)
        repaired = await self._heal_engines(engines)
        if count.living or count.placed:
            repaired += await self._mend_waiting(count)
            repaired += await self._mend(await self._suspects_on_engines(engines))
            repaired += await self._find_missing(count, engines)
        self._turn += MOST_ENGINES
        return repaired

    async def _remove_misplaced(self, requests: Sequence[str] = ()) -> int:
        try:
            engines = self._next_engines(await self._engines(), self._turn)
        except RedisError as error:
            if not is_misplaced(error):
                raise
            engines = []
        keys, names = self.keys, list(self.keys.own)
        for engine in engines:
            names += (keys.engine(engine), keys.reservations(engine), keys.assigned(engine))
        for request in requests:
            names += (keys.record(request), keys.body(request), keys.output(request))
        removed = await remove_misplaced(self.store, names)
        for name, kind in removed:
            self._note(Repair.MISPLACED, f"key {name!r}, a {kind}")
        return len(removed)

    async def _engines(self) -> list[str]:
        pipe = self.store.commands.pipeline(transaction=False)
        pipe.smembers(self.keys.engines)
        pipe.zrange(self.keys.room, 0, -1)
        pipe.zrange(self.keys.leases, 0, -1)
        return sorted({read_name(name) for names in await pipe.execute() for name in names})

    @staticmethod
    def _next_engines(engines: Sequence[str], turn: int) -> list[str]:
        start = turn % max(1, len(engines))
        return [*engines[start:], *engines[:start]][:MOST_ENGINES]

    async def _heal_engines(self, engines: Sequence[str]) -> int:
        chosen = self._next_engines(engines, self._turn)
        repairs = await heal(self.store, self.pool, chosen, grace_ms=LEASE_GRACE_MS) if chosen else []
        for repair, engine in repairs:
            self._note(repair, f"engine {engine!r}")
        return len(repairs)

    async def _mend_waiting(self, count: Census) -> int:
        pages = min(MOST_PAGES, math.ceil(count.placed / (MOST_REQUESTS * LOOKS_A_ROUND)))
        repaired = await self._mend(await self._suspects_in_waiting())
        for _ in range(1, pages):
            if not self._cursor:
                break
            await asyncio.sleep(PAGE_PAUSE_S)
            repaired += await self._mend(await self._suspects_in_waiting())
        return repaired

    async def _suspects_in_waiting(self) -> list[tuple[str, str | None]]:
        ids: list[str] = []
        while len(ids) < MOST_REQUESTS:
            self._cursor, page = await self.store.commands.zscan(self.keys.waiting, self._cursor, count=MOST_REQUESTS)
            ids += [read_name(member) for member, _ in page]
            if not self._cursor:
                break
        now = await server_ms(self.store, self.pool) if ids else 0.0
        suspects: list[tuple[str, str | None]] = []
        for request_id, (state, arrived, timeout) in await self._read(ids, "state", "arrived_ms", "timeout_ms"):
            late = bool(timeout) and now >= number(arrived) + number(timeout)
            if state != RequestState.WAITING or late:
                suspects.append((request_id, None))
        return suspects

    async def _suspects_on_engines(self, engines: Sequence[str]) -> list[tuple[str, str | None]]:
        now = await server_ms(self.store, self.pool)
        suspects: list[tuple[str, str | None]] = []
        looked_at = 0
        for engine in self._next_engines(engines, self._held_turn):
            self._held_turn += 1
            ids = [read_name(member) for member in await self.store.commands.hkeys(self.keys.reservations(engine))]
            for request_id, (state, on, assigned) in await self._read(ids, "state", "engine", "assigned_ms"):
                runs = state == RequestState.RUNNING
                unheard = state == RequestState.ASSIGNED and now >= number(assigned) + UNHEARD_MS
                if on != engine or unheard or not (runs or state == RequestState.ASSIGNED):
                    suspects.append((request_id, engine))
            looked_at += len(ids)
            if looked_at >= MOST_REQUESTS:
                break
        return suspects

    async def _find_missing(self, count: Census, engines: Sequence[str]) -> int:
        if count.missing <= self._unexplained:
            self._unexplained = max(0, count.missing)
            return 0
        await asyncio.sleep(random.uniform(0, self._spread_s))
        count = await census(self.store, self.pool, engines)
        if count.missing <= self._unexplained:
            return 0
        log.warning("pool %s: %d requests are in no place; searching for them", self.pool, count.missing)
        repaired = 0
        async for ids in self._all_requests():
            suspects = [
                (request_id, None)
                for request_id, (state,) in await self._read(ids, "state")
                if state != RequestState.FINISHED
            ]
            repaired += await self._mend(suspects)
            await asyncio.sleep(PAGE_PAUSE_S)
        self._unexplained = max(0, (await census(self.store, self.pool, engines)).missing)
        if self._unexplained:
            log.warning("pool %s: the counters are off by %d requests that are not there", self.pool, self._unexplained)
        return repaired

    async def _all_requests(self) -> AsyncGenerator[list[str], None]:
        prefix = self.keys.record("")
        pattern = escaped(prefix) + "*"
        page: list[str] = []
        server = await self.store.node_of(prefix)
        async for name in server.scan_iter(match=pattern, count=SCAN_PAGE):
            request_id = read_name(name)[len(prefix) :]
            if ":" not in request_id:
                page.append(request_id)
            if len(page) >= SCAN_PAGE:
                yield page
                page = []
        if page:
            yield page

    async def _read(self, ids: Sequence[str], *fields: str) -> list[tuple[str, list[str | None]]]:
        pipe = self.store.commands.pipeline(transaction=False)
        for request_id in ids:
            pipe.hmget(self.keys.record(request_id), *fields)
        records = await pipe.execute(raise_on_error=False) if ids else []
        misplaced = [i for i, r in enumerate(records) if isinstance(r, ResponseError) and is_misplaced(r)]
        if misplaced:
            await self._remove_misplaced([ids[i] for i in misplaced])
            for i in misplaced:
                records[i] = [None] * len(fields)
        for error in records:
            if isinstance(error, Exception):
                raise error
        return [
            (request_id, [None if value is None else value.decode(errors="replace") for value in values])
            for request_id, values in zip(ids, records, strict=True)
        ]

    async def _mend(self, suspects: Iterable[tuple[str, str | None]]) -> int:
        repaired = 0
        for request_id, engine in suspects:
            for repair in await mend(self.store, self.pool, request_id, engine):
                self._note(repair, f"request {request_id!r}")
                repaired += 1
        return repaired

    def _note(self, repair: Repair, what: str) -> None:
        metrics.REPAIRS.labels(self.pool, repair).inc()
        level = logging.INFO if repair is Repair.EXPIRED_WAITING else logging.WARNING
        log.log(level, "pool %s: %s: %s, repaired", self.pool, what, repair)
