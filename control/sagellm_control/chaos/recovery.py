"""Times how soon the requests of a killed worker are back in line."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from ..store.connect import Store
from ..store.inspect import engine_rows
from ..wire.states import RequestState
from .ledger import MOST_TOLD
from .plan import POOL
from .process import Victim

LOOK_EVERY_S = 0.05


@dataclass
class Recovery:
    """One request that a killed worker had."""

    request_id: str
    worker: str
    seconds: float
    """From the kill until it was out of the dead worker's hands: back in line at its old rank, or ended."""
    reassigned_s: float
    """From the kill until it was assigned again, or had ended; with the wait for its turn, which may be long for a
    request of low priority."""
    outage: bool
    """Valkey was away meanwhile: nothing can go on before it is back."""


class RecoveryWatch:
    """Follows what killed workers leave behind."""

    def __init__(self, store: Store, valkey: Victim) -> None:
        self._store = store
        self._valkey = valkey
        self._tasks: set[asyncio.Task[None]] = set()
        self.recoveries: list[Recovery] = []

    def killed(self, victim: Victim) -> None:
        """A worker has been killed just now."""
        task = asyncio.create_task(self._follow(victim.name, victim.pid), name=f"recovery of {victim.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what has not been recovered: it is counted with the time that it has taken so far."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def p99_s(self, *, outages: bool = False) -> float:
        """Of the recoveries during which Valkey stood (or of the others), in seconds; 0: there were none."""
        return p99([r.seconds for r in self.recoveries if r.outage is outages])

    def reassigned_p99_s(self) -> float:
        """The same until they were assigned again, or had ended."""
        return p99([r.reassigned_s for r in self.recoveries if not r.outage])

    def slowest(self) -> list[str]:
        """The slowest recoveries, in words."""
        ordered = sorted(self.recoveries, key=lambda r: r.seconds, reverse=True)
        return [
            f"{r.request_id} of {r.worker}: in line after {r.seconds:.2f} s, assigned after {r.reassigned_s:.2f} s"
            + (", Valkey was away meanwhile" if r.outage else "")
            for r in ordered[:MOST_TOLD]
        ]

    async def _follow(self, worker: str, pid: int) -> None:
        killed_at = time.monotonic()
        # It is dead, so what it held stands still until its lease lapses.
        held = await self._insist_on_held(pid)
        given_back: dict[str, float] = {}
        try:
            while held:
                await asyncio.sleep(LOOK_EVERY_S)
                for request_id, state in await self._moved(held):
                    given_back.setdefault(request_id, time.monotonic() - killed_at)
                    if state != RequestState.WAITING.encode():
                        del held[request_id]
                        self._note(request_id, worker, killed_at, given_back)
        finally:
            for request_id in held:
                self._note(request_id, worker, killed_at, given_back)

    def _note(self, request_id: str, worker: str, killed_at: float, given_back: dict[str, float]) -> None:
        reassigned_s = time.monotonic() - killed_at
        outage = self._valkey.disturbed_since(killed_at)
        seconds = given_back.get(request_id, reassigned_s)
        self.recoveries.append(Recovery(request_id, worker, seconds, reassigned_s, outage))

    async def _insist_on_held(self, pid: int) -> dict[str, int]:
        while True:
            try:
                return await self._held(pid)
            except (RedisError, OSError):
                await asyncio.sleep(LOOK_EVERY_S)

    async def _held(self, pid: int) -> dict[str, int]:
        """Request -> attempt, of all that the worker process had."""
        keys = self._store.keys.pool(POOL)
        engines = sorted(name.decode() for name in await self._store.commands.smembers(keys.engines))
        held: dict[str, int] = {}
        for row in await engine_rows(self._store, POOL, engines):
            if f"-{pid}-" in row.worker:
                for member in await self._store.commands.hkeys(keys.reservations(row.engine_id)):
                    request_id = member.decode()
                    held[request_id] = int(await self._store.commands.hget(keys.record(request_id), "attempt") or 0)
        return held

    async def _moved(self, held: dict[str, int]) -> list[tuple[str, bytes | None]]:
        """Those that wait again, have been assigned again, or have ended; with their state."""
        keys = self._store.keys.pool(POOL)
        pipe = self._store.commands.pipeline(transaction=False)
        for request_id in held:
            pipe.hmget(keys.record(request_id), "state", "attempt")
        try:
            answers = await pipe.execute()
        except (RedisError, OSError):
            return []
        elsewhere = (None, RequestState.FINISHED.encode(), RequestState.WAITING.encode())
        return [
            (request_id, state)
            for (request_id, attempt), (state, now_at) in zip(held.items(), answers, strict=True)
            if state in elsewhere or int(now_at or 0) > attempt
        ]


def p99(values: Sequence[float]) -> float:
    """The value below which 99 of 100 lie; 0 for none."""
    ordered = sorted(values)
    return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0.0
