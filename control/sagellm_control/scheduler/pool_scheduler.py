"""The scheduling loop of one pool: what arrives is admitted, what waits is assigned, in the order of the ranks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any

from redis.exceptions import RedisError

from ..store.connect import Store
from ..store.inspect import pool_depth
from ..store.steps.assign import assign
from ..store.steps.take import LEAST_URGENT, Taken, ensure_groups, leave, reclaim, take, wait_and_take
from ..wire.priority import RequestPriority
from . import metrics
from .arrival_desk import AfterAdmission, ArrivalDesk
from .engine_watch import EngineWatch
from .policy_settings import WhenOverloaded
from .pool_load import sample_load
from .pool_policy import NO_EPOCH, PoolPolicy
from .proposal import Proposer
from .reranker import Reranker
from .settings import SchedulerSettings
from .time_limits import TimeLimits
from .waiting_desk import WaitingDesk

log = logging.getLogger(__name__)

MOST_SETTLED = 1000
"""Announcements settled in one call."""
MISSED_AFTER_S = 0.25
"""A request that waits so long beside an engine with room has been missed; any commit is done by then."""


class PoolScheduler:
    """One of any number of schedulers of a pool.

    1. It takes arrivals (most urgent stream first) and announcements of free room, or waits for either, or for the
       time at which an engine opens by its pace, a request stops to hold out for a better one, or one may wait no
       longer.
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
        self.policy = PoolPolicy(store, pool)
        self.watch = EngineWatch(store, pool)
        self.proposer = Proposer(self.policy, self.watch)
        self.arrivals = ArrivalDesk(store, pool, self.proposer)
        self.limits = TimeLimits(store, pool, self.watch.clock)
        self.waiting = WaitingDesk(store, pool, self.proposer, batch=settings.batch)
        self._reader: Any = store.blocking(settings.sweep_s)
        self._swept_at = float("-inf")
        self._down_to = LEAST_URGENT
        """The least urgent level that the next read looks at: while more urgent ones give enough, no further."""
        self._ahead: asyncio.Task[Taken] | None = None
        """The next read, when it is under way already."""
        self._committing: asyncio.Task[AfterAdmission] | None = None
        """Admissions that were sent last and may be under way."""
        self._took_all = False
        """Nothing was left to take after the last commit: one waits for the next."""
        self._reranking: asyncio.Task[None] | None = None
        self._seen_waiting: tuple[str, float] | None = None
        """The head of the waiting set while engines had room, and since when (monotonic)."""

    async def run(self) -> None:
        """Schedule until cancelled."""
        try:
            await self.prepare()
            while True:
                await self.step()
        finally:
            tasks: list[asyncio.Task[Any] | None] = [self._ahead, self._committing, self._reranking]
            left = [task for task in tasks if task is not None]
            for task in left:
                task.cancel()
            # With what they may have failed with: whatever ended this loop is what is told.
            await asyncio.gather(*left, return_exceptions=True)
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
        taken = Taken() if self._took_all else await self._take()
        self._took_all = False
        if not taken:
            taken = await wait_and_take(self._reader, self.keys, self.consumer, block_ms=self._block_ms())
        if taken:
            await self.settle(taken)
        if self._is_due():
            await self.waiting.assign()
        await self.limits.enforce_due()
        if time.monotonic() - self._swept_at >= self.settings.sweep_s:
            await self.sweep()

    async def _take(self) -> Taken:
        ahead, self._ahead = self._ahead, None
        taken = await (ahead or self._read())
        self._down_to = taken.enough_at(self.settings.batch)
        if len(taken.arrivals) >= self.settings.batch:
            # There is more: it is read while these are decided on.
            self._ahead = asyncio.create_task(self._read(), name=f"take {self.pool}")
            await asyncio.sleep(0)  # it is sent now, and not when these have been decided on
        return taken

    def _read(self) -> Coroutine[Any, Any, Taken]:
        return take(self.store, self.keys, self.consumer, arrivals=self.settings.batch, down_to=self._down_to)

    def _block_ms(self) -> int:
        """How long nothing but an event is of interest."""
        opens_ms = self.waiting.opens_at_ms()
        next_ms = self.limits.due_ms if opens_ms is None else min(self.limits.due_ms, opens_ms)
        return max(1, int(min(self.settings.sweep_s * 1000, next_ms - self.watch.clock.now_ms())) + 1)

    def _is_due(self) -> bool:
        """Whether an engine has opened by time, or somebody has held out for long enough."""
        opens_ms = self.waiting.opens_at_ms()
        return opens_ms is not None and opens_ms <= self.watch.clock.now_ms()

    async def settle(self, taken: Taken) -> None:
        """Deal with everything that was taken."""
        if any("prefix" in entry.fields for entry in taken.arrivals) and self.proposer.placements_due():
            await self.watch.follow_placements()
        looks: list[AfterAdmission] = []
        for start in range(0, len(taken.arrivals), self.settings.batch):
            batch = await self.arrivals.decide(taken.arrivals[start : start + self.settings.batch])
            # It is made ready while the server is at the one before, and sent as soon as that is answered.
            earlier = self._committing
            self._committing = asyncio.create_task(self.arrivals.commit(batch), name=f"admit {self.pool}")
            if earlier is not None:
                looks.append(self._learn(await earlier))
        if any(map(self.waiting.worth_a_look, looks)) or taken.freed or self._ahead is None:
            # Else there is more, which is decided on while the server carries out this.
            looks += await self._committed()
            self._took_all = bool(looks) and looks[-1].left == 0 and not taken.freed and self._ahead is None
        if taken.freed:
            if any(self.watch.engines.load_of(entry.engine) is None for entry in taken.freed):
                await self.watch.read()
            for entry in taken.freed:
                self.watch.engines.set_places(entry.engine, entry.free)
        if taken.freed or any(map(self.waiting.worth_a_look, looks)):
            await self.waiting.assign()
        # Only now: if this scheduler dies before, another one takes them over.
        for start in range(0, len(taken.freed), MOST_SETTLED):
            entries = taken.freed[start : start + MOST_SETTLED]
            await assign(self.store, self.pool, [], settles=[entry.entry_id for entry in entries])

    async def sweep(self) -> None:
        """The belt to the braces: read everything again, take over from the dead, place what was missed."""
        self._swept_at = time.monotonic()
        await self.policy.follow()
        await self.watch.sweep()
        if self.policy.adaptive is not None:
            await self.policy.adapt(await sample_load(self.store, self.pool, self.watch))
        self._rerank()
        left_over = await reclaim(
            self.store, self.keys, self.consumer, idle_ms=int(self.settings.reclaim_idle_s * 1000)
        )
        if left_over:
            metrics.RECLAIMED.labels(self.pool).inc(len(left_over.arrivals) + len(left_over.freed))
            await self.settle(left_over)
        await self.limits.enforce()
        if self.policy.settings.overload is not WhenOverloaded.OFF:
            backlog = (await pool_depth(self.store, self.pool)).backlog
            waiting = {priority: backlog[priority.label] for priority in RequestPriority}
            await self.policy.notice_overload(waiting, self.watch.clock.now_ms())
        await self._place_missed()

    def _rerank(self) -> None:
        if self._reranking is not None and self._reranking.done():
            task, self._reranking = self._reranking, None
            task.result()
        if self._reranking is None and self.policy.epoch != NO_EPOCH:
            reranker = Reranker(self.store, self.pool, self.proposer)
            self._reranking = asyncio.create_task(reranker.run(), name=f"rerank {self.pool}")

    async def _place_missed(self) -> None:
        # Another scheduler may be about to place what waits now: missed is what still waits a while later.
        head = await self.waiting.head() if self.watch.engines.open else None
        if head is None:
            self._seen_waiting = None
            return
        request_id, now = head.arrival.id, time.monotonic()
        if self._seen_waiting is None or self._seen_waiting[0] != request_id:
            self._seen_waiting = (request_id, now)
        elif now - self._seen_waiting[1] < MISSED_AFTER_S or self.waiting.opens_at_ms() is not None:
            return  # not yet, or it will be looked at by time
        elif missed := await self.waiting.assign():
            metrics.MISSED_WAKEUPS.labels(self.pool).inc(missed)
            log.warning("pool %s: the sweep placed %d requests that no wake-up had reached", self.pool, missed)

    async def _committed(self) -> list[AfterAdmission]:
        """Wait for the admissions that are under way, and learn what they left."""
        committing, self._committing = self._committing, None
        return [self._learn(await committing)] if committing is not None else []

    def _learn(self, after: AfterAdmission) -> AfterAdmission:
        self.limits.note(after.ends_ms)
        return after
