"""The scheduling loop of one pool: what arrives is admitted, what waits is assigned, in the order of the ranks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from redis.exceptions import RedisError

from ..store.connect import Store
from ..store.inspect import engine_rows, room, serves, waiting_head
from ..store.steps.admit import Admission, admit
from ..store.steps.assign import Placement as Decision
from ..store.steps.assign import assign
from ..store.steps.take import IntakeEntry, Taken, ensure_groups, leave, reclaim, take, wait_and_take
from ..wire.request import MAX_ID_LENGTH, Arrival, BadEntry, is_request_id, read_arrival
from . import metrics
from .forecast import UNKNOWN
from .open_engines import OpenEngines
from .order import rank_of
from .pool_policy import PoolPolicy
from .settings import SchedulerSettings

log = logging.getLogger(__name__)

ROWS_KEPT_S = 10.0
"""Engine rows are read again so often; what an engine is changes only when its worker registers."""
MOST_SETTLED = 1000
"""Announcements settled in one call."""
MISSED_AFTER_S = 0.25
"""A request that waits so long beside an engine with room has been missed; any commit is done by then."""
DEEPEST_LOOK = 10_000
"""So many requests at the head may be unable to use what is free; beyond them nobody is looked for."""


class PoolScheduler:
    """One of any number of schedulers of a pool.

    1. It takes arrivals (most urgent stream first) and announcements of free room, or waits for either.
    2. It ranks arrivals by the pool's order and proposes an engine for each; ``admit`` sends an arrival straight to
       its engine where nobody is ahead of it, and into the waiting set otherwise.
    3. While requests wait and engines have room, it places the head of the waiting set; ``assign`` refuses what is
       no longer true, and the next round decides on fresh facts.

    It holds nothing that another scheduler could not take over.
    """

    def __init__(self, store: Store, pool: str, consumer: str, settings: SchedulerSettings) -> None:
        self.store = store
        self.pool = pool
        self.consumer = consumer
        self.settings = settings
        self.keys = store.keys.pool(pool)
        self.engines = OpenEngines()
        self.policy = PoolPolicy(store, pool)
        self._reader: Any = store.blocking(settings.sweep_s)
        self._rows_read_at = float("-inf")
        self._swept_at = float("-inf")
        self._ahead: asyncio.Task[Taken] | None = None
        """The next read, when it is under way already."""
        self._committing: asyncio.Task[bool] | None = None
        """Admissions that are under way."""
        self._seen_waiting: tuple[str, float] | None = None
        """The head of the waiting set while engines had room, and since when (monotonic)."""

    async def run(self) -> None:
        """Schedule until cancelled."""
        try:
            await self.prepare()
            while True:
                await self.step()
        finally:
            for task in (self._ahead, self._committing):
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})
            await self.store.done_with(self._reader)
            with contextlib.suppress(RedisError, OSError):
                # Whoever cannot say goodbye is forgotten by the keeper.
                await leave(self.store, self.keys, self.consumer)

    async def prepare(self) -> None:
        """Create what the loop reads from, and record the policy if one was asked for."""
        await ensure_groups(self.store, self.keys)
        await self.policy.record(self.settings)
        await self.sweep()

    async def step(self) -> None:
        """One round: take (or wait), admit, assign; and the sweep when it is due."""
        taken = await self._take()
        if not taken:
            block_ms = max(1, int(self.settings.sweep_s * 1000))
            taken = await wait_and_take(self._reader, self.keys, self.consumer, block_ms=block_ms)
        if taken:
            await self.settle(taken)
        if time.monotonic() - self._swept_at >= self.settings.sweep_s:
            await self.sweep()

    async def _take(self) -> Taken:
        ahead, self._ahead = self._ahead, None
        taken = await (ahead or take(self.store, self.keys, self.consumer, arrivals=self.settings.batch))
        if len(taken.arrivals) == self.settings.batch:
            # There is more: it is read while these are decided on.
            more = take(self.store, self.keys, self.consumer, arrivals=self.settings.batch)
            self._ahead = asyncio.create_task(more, name=f"take {self.pool}")
        return taken

    async def settle(self, taken: Taken) -> None:
        """Deal with everything that was taken."""
        look = False
        for start in range(0, len(taken.arrivals), self.settings.batch):
            admissions = await self._decide_arrivals(taken.arrivals[start : start + self.settings.batch])
            look |= await self._committed()
            self._committing = asyncio.create_task(self._commit(admissions), name=f"admit {self.pool}")
        if look or taken.freed or self._ahead is None:
            # Else there is more, which is decided on while the server carries out this.
            look |= await self._committed()
        if taken.freed:
            if not all(self.engines.knows(entry.engine) for entry in taken.freed):
                await self._read_engines()
            for entry in taken.freed:
                self.engines.set_places(entry.engine, entry.free)
        if look or taken.freed:
            await self._assign()
        # Only now: if this scheduler dies before, another one takes them over.
        for start in range(0, len(taken.freed), MOST_SETTLED):
            entries = taken.freed[start : start + MOST_SETTLED]
            await assign(self.store, self.pool, [], settles=[entry.entry_id for entry in entries])

    async def sweep(self) -> None:
        """The belt to the braces: read everything again, take over from the dead, place what was missed."""
        self._swept_at = time.monotonic()
        await self.policy.follow()
        await self._read_engines(all_rows=self._swept_at - self._rows_read_at >= ROWS_KEPT_S)
        left_over = await reclaim(
            self.store, self.keys, self.consumer, idle_ms=int(self.settings.reclaim_idle_s * 1000)
        )
        if left_over:
            metrics.RECLAIMED.labels(self.pool).inc(len(left_over.arrivals) + len(left_over.freed))
            await self.settle(left_over)
        await self._place_missed()

    async def _place_missed(self) -> None:
        # Another scheduler may be about to place what waits now: missed is what still waits a while later.
        head = await waiting_head(self.store, self.pool, 1) if self.engines.open else []
        if not head:
            self._seen_waiting = None
            return
        request_id, now = head[0][0].id, time.monotonic()
        if self._seen_waiting is None or self._seen_waiting[0] != request_id:
            self._seen_waiting = (request_id, now)
        elif now - self._seen_waiting[1] >= MISSED_AFTER_S and (missed := await self._assign()):
            metrics.MISSED_WAKEUPS.labels(self.pool).inc(missed)
            log.warning("pool %s: the sweep placed %d requests that no wake-up had reached", self.pool, missed)

    async def _decide_arrivals(self, entries: list[IntakeEntry]) -> list[Admission]:
        batch_began = time.monotonic()
        admissions: list[Admission] = []
        ranked: list[tuple[float, IntakeEntry, Arrival]] = []
        for entry in entries:
            try:
                arrival = await self._read(entry, batch_began)
            except BadEntry as bad:
                log.warning("pool %s: entry %s cannot be read: %s", self.pool, entry.entry_id, bad)
                request_id = entry.fields.get("id", "")
                # A text that is no id is not used as one: it could name a key that is something else.
                request_id = request_id if is_request_id(request_id) else "unreadable"
                admissions.append(Admission(entry.level, entry.entry_id, request_id, dead_reason=str(bad)))
                continue
            ranked.append((rank_of(self.policy.order, arrival), entry, arrival))
        ranked.sort(key=lambda item: item[0])
        for rank, entry, arrival in ranked:
            engine = self._choose(arrival)
            if engine is not None:
                self.engines.take(engine)
            admissions.append(Admission(entry.level, entry.entry_id, arrival.id, rank, engine))
        return admissions

    async def _committed(self) -> bool:
        """Wait for the admissions that are under way; whether the waiting set has to be looked at after them."""
        committing, self._committing = self._committing, None
        return await committing if committing is not None else False

    async def _commit(self, admissions: list[Admission]) -> bool:
        admitted = await admit(self.store, self.pool, admissions)
        for admission, result in zip(admissions, admitted.results, strict=True):
            if admission.engine and result != "assigned":
                self.engines.give_back(admission.engine)
        for engine, free in admitted.places.items():
            self.engines.set_places(engine, free)
        metrics.BATCH.labels(self.pool).observe(len(admissions))
        for result in set(admitted.results):
            metrics.ADMITTED.labels(self.pool, result).inc(admitted.results.count(result))
        if admitted.open_engines and not self.engines.open:
            # There is room that this snapshot does not know of.
            await self._read_engines()
        return admitted.waiting > 0 and admitted.open_engines > 0

    async def _read(self, entry: IntakeEntry, batch_began: float) -> Arrival:
        request_id = entry.fields.get("id", "")
        if not is_request_id(request_id):
            raise BadEntry(f"field 'id' must be 1 to {MAX_ID_LENGTH} letters, digits or ._~@=+-")
        arrival = read_arrival(request_id, entry.fields)
        if arrival.model and not self.engines.answers_to(arrival.model):
            if not await serves(self.store, self.pool, arrival.model):
                raise BadEntry(f"no engine of this pool serves the model {arrival.model[:80]!r}")
            if self._rows_read_at < batch_began:
                # An engine may have learned it since its row was read.
                await self._read_engines(all_rows=True)
        return arrival

    async def _assign(self) -> int:
        """Place the head of the waiting set while anybody waits and any engine has room; how many were placed."""
        placed = 0
        passed = 0
        fresh = False
        while True:
            head = await waiting_head(self.store, self.pool, self._window(), start=passed)
            decisions = self._decide(head)
            if not any(decision.engine for decision in decisions):
                if not head:
                    return placed
                if not fresh:
                    # Before giving up, or looking further down: is that still so?
                    await self._read_engines()
                    fresh = True
                elif self.engines.open and passed < DEEPEST_LOOK:
                    passed += len(head)
                else:
                    return placed
                continue
            answer = await assign(self.store, self.pool, decisions, passed=passed)
            assigned = answer.results.count("assigned")
            placed += assigned
            metrics.BATCH.labels(self.pool).observe(len(decisions))
            metrics.ASSIGNED.labels(self.pool).inc(assigned)
            for number, decision in enumerate(decisions):
                done = number < len(answer.results) and answer.results[number] == "assigned"
                if decision.engine and not done:
                    self.engines.give_back(decision.engine)
            for engine, free in answer.places.items():
                self.engines.set_places(engine, free)
            if not answer.waiting or not answer.open_engines:
                return placed
            fresh = False
            if answer.results[-1] == "stale":
                metrics.STALE.labels(self.pool).inc()
                await self._read_engines()
                passed = 0

    def _decide(self, head: list[tuple[Arrival, int]]) -> list[Decision]:
        decisions: list[Decision] = []
        for arrival, attempts in head:
            if not self.engines.open:
                break
            engine = self._choose(arrival)
            if engine is not None:
                self.engines.take(engine)
            decisions.append(Decision(arrival.id, attempts, engine))
        return decisions

    def _choose(self, arrival: Arrival) -> str | None:
        choice = self.policy.placement.choose(arrival, UNKNOWN, self.engines, 0.0)
        return choice if isinstance(choice, str) else None

    def _window(self) -> int:
        # A few more than there are places, for those at the head that cannot use what is free.
        return min(self.settings.batch, self.engines.places + 8)

    async def _read_engines(self, *, all_rows: bool = False) -> None:
        free = await room(self.store, self.pool)
        wanted = [engine for engine in free if all_rows or not self.engines.knows(engine)]
        if wanted:
            self.engines.learn(await engine_rows(self.store, self.pool, wanted))
        if all_rows:
            self._rows_read_at = time.monotonic()
        self.engines.refresh(free)
