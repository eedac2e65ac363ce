"""Ours: one queue for all engines, with the order, placement, estimates, lateness and pace of production.

What production does by scripts on Redis is done here by calls; what is decided, and by which objects, is the same.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from dataclasses import dataclass, replace

from ..scheduler.engine_load import EngineRoom, Reservation
from ..scheduler.estimates import Estimates
from ..scheduler.head_of_line import Action, Candidate, HeadOfLine, Look
from ..scheduler.lateness import Lateness, step_back_ms
from ..scheduler.open_engines import OpenEngines
from ..scheduler.order import AdaptiveOrder, Order, PoolLoad, make_order
from ..scheduler.overload import OverloadMode
from ..scheduler.placement import Placement, make_placement
from ..scheduler.policy_settings import PolicySettings
from ..scheduler.prefix_index import PrefixIndex
from ..scheduler.tenant_clock import TenantClock
from .agenda import Agenda
from .engine import Engine
from .engine_worker import EngineWorker, PaceRule
from .fleet import Fleet
from .job import Job
from .misses import Misses
from .waiting_job import WaitingJob

WINDOW_MS = 1000.0
"""How often workers look at what their engines did, and schedulers at the rows."""

MOST_LOOKS = 64
"""Requests at the head of the line that are looked at in one go while none of them can be placed."""

DEEPEST_LOOK = 512
"""Requests at the head of the line of which some may hold out for an engine; beyond them nobody is looked for.
Fewer than a scheduler's, as every event of a run begins a look."""


class KnownCaches(PrefixIndex):
    """Of engines whose caches are known, and not guessed from their KV tokens."""

    def set_capacity(self, engine: str, kv_tokens: int) -> None:
        """It stays what it is."""


@dataclass(slots=True, frozen=True)
class Policies:
    """The pool's."""

    order: Order
    placement: Placement
    lateness: Lateness
    overload: OverloadMode


class LateBinding:
    """The queue, its scheduler and the engines' workers.

    Args:
        settings: of the pool: order, placement and their parameters.
        pace: how the engines' pace is set.
    """

    def __init__(
        self,
        settings: PolicySettings,
        agenda: Agenda,
        fleet: Fleet,
        *,
        pace: PaceRule,
    ) -> None:
        self._agenda = agenda
        self._policies = Policies(
            make_order(settings.policy, settings),
            make_placement(settings.placement, settings),
            Lateness.of(settings),
            OverloadMode(settings),
        )
        self._order = self._policies.order
        self._estimates = Estimates()
        self._clock = TenantClock(credit_ms=self._order.credit_ms)
        self._overloaded: dict[str, str] = {}
        """What is recorded for the pool about its overload."""
        self._waiting: list[WaitingJob] = []
        self._running: dict[str, WaitingJob] = {}
        self._admitted = 0
        self._wake_ms = float("inf")
        self._next_hold_ms = float("inf")
        self._ticking = False
        self._missed = Misses()
        self._workers: dict[str, EngineWorker] = {}
        blocks = max((engine.model.cache_blocks for engine in fleet.engines), default=0)
        self.engines = OpenEngines(KnownCaches(max(1, blocks)))
        self._line = HeadOfLine(self._policies, self.engines)
        for engine in fleet.engines:
            self._workers[engine.id] = EngineWorker(engine, pace, settings.tpot_slo_ms)
        self.engines.learn(worker.row for worker in self._workers.values())
        self.engines.refresh({engine.id: engine.model.slots for engine in fleet.engines})
        self._estimates.learn_loads(self.engines.loads())

    # What happens.

    def arrived(self, job: Job) -> None:
        forecast = self._estimates.forecast(job.arrival)
        self._admitted += 1
        item = WaitingJob(0.0, self._admitted, job, forecast, 0.0, 0.0)
        self._rank(item)
        insort(self._waiting, item)
        if not self._ticking:
            self._ticking = True
            self._agenda.at(self._agenda.now_ms + WINDOW_MS, self._tick)

    def prefilled(self, job: Job) -> None:  # it waits at its old rank for an engine that answers
        item = self._running.pop(job.arrival.id)
        self._free(job)
        self._back_in_line(item)

    def first_token(self, job: Job) -> None:
        if job.arrival.slo_ms:
            self._missed.count(self._agenda.now_ms, job.ttft_ms > job.arrival.slo_ms)

    def finished(self, job: Job) -> None:
        item = self._running.pop(job.arrival.id)
        self._free(job)
        arrival = job.arrival
        self._estimates.settle(arrival.model, arrival.tenant, arrival.max_tokens, job.output_tokens)
        if self._order.fair and item.flow == self._order.flow(arrival):
            served = replace(item.forecast, output_tokens=float(job.output_tokens))
            self._clock.settle(item.flow, self._order.charge(arrival, served) - item.charge_ms)

    def lost(self, engine: Engine, jobs: list[Job]) -> None:
        worker = self._workers[engine.id]
        worker.held.clear()
        self.engines.close(engine.id)
        self.engines.prefixes.forget(engine.id)
        for item in self._waiting:
            if item.job.blocks_on == engine.id:  # they are lost: who answers it reads the prompt
                item.job.blocks_on = ""
        for job in jobs:
            self._back_in_line(self._running.pop(job.arrival.id))

    def back(self, engine: Engine) -> None:
        self.engines.refresh(
            {
                **{load.row.engine_id: load.free for load in self.engines.loads()},
                engine.id: engine.model.slots,
            }
        )

    def settle(self, now_ms: float) -> None:
        self.engines.open_due(now_ms)
        if self._waiting:
            self._place(now_ms)
        self._wake_up()

    # The scheduler.

    def _back_in_line(self, item: WaitingJob) -> None:
        insort(self._waiting, item)  # at its old rank
        if self._order.fair:
            self._clock.requeue(item.flow)

    def _rank(self, item: WaitingJob) -> None:
        arrival = item.job.arrival
        item.start_ms, item.charge_ms = self._policies.overload.start(arrival), 0.0
        if self._order.fair:
            item.flow, item.charge_ms = self._order.flow(arrival), self._order.charge(arrival, item.forecast)
            item.start_ms = self._clock.admit(item.flow, item.charge_ms)
        item.rank = item.start_ms + self._order.handicap(arrival, item.forecast)
        if item.stepped_back:
            item.rank += step_back_ms(self._order, arrival)

    def _place(self, now_ms: float) -> None:
        waiting = self._waiting
        position, look = 0, Look()
        while position < min(len(waiting), DEEPEST_LOOK) and look.in_vain + look.stood_back < MOST_LOOKS:
            item = waiting[position]
            candidate = Candidate(item.job.arrival, item.forecast, item.rank, item.stepped_back, tried=False)
            decision = self._line.decide(candidate, look, now_ms)
            if decision.action is Action.STOP:
                break
            if decision.action is Action.PASS:
                position += 1
                continue
            del waiting[position]
            self._line.forget(item.job.arrival.id)
            if decision.taken is not None:
                self._assign(item, decision.taken)
            elif decision.action is Action.STEP_BACK:
                item.stepped_back, item.rank = True, decision.rank
                insort(waiting, item)
            else:
                self._refuse(item, now_ms)
        self._next_hold_ms = look.next_hold_ms

    def _assign(self, item: WaitingJob, taken: Reservation) -> None:
        job = item.job
        worker = self._workers[taken.engine]
        worker.take(job, taken)
        if self._order.fair:
            self._clock.assign(item.flow, item.start_ms)
        self._running[job.arrival.id] = item
        worker.engine.submit(job)

    def _refuse(self, item: WaitingJob, now_ms: float) -> None:
        item.job.refused_ms = now_ms
        self._missed.count(now_ms, True)
        if self._order.fair:
            self._clock.drop(item.flow, item.charge_ms)

    def _free(self, job: Job) -> None:
        worker = self._workers[job.engine]
        del worker.held[job.arrival.id]
        held = sum(taken.kv_tokens for taken in worker.held.values())
        self.engines.set_room(job.engine, EngineRoom(worker.row.slots - len(worker.held), held))

    def _wake_up(self) -> None:
        # An engine opens by time, or a hold ends: nothing else would look.
        if not self._waiting:
            return
        at_ms = self.engines.next_opening_ms
        if self.engines.open and (at_ms is None or self._next_hold_ms < at_ms):
            at_ms = self._next_hold_ms
        if at_ms is None or at_ms >= self._wake_ms or at_ms == float("inf"):
            return
        self._wake_ms = at_ms

        def wake(now_ms: float) -> None:
            if now_ms >= self._wake_ms:
                self._wake_ms = float("inf")

        self._agenda.at(at_ms, wake)

    # Workers, and what schedulers do now and then.

    def _tick(self, now_ms: float) -> None:
        self.engines.learn([worker.row for worker in self._workers.values() if worker.look(now_ms)])
        self._estimates.learn_loads(self.engines.loads())
        if isinstance(self._order, AdaptiveOrder):
            self._adapt(self._order, now_ms)
        waiting = Counter(item.job.arrival.priority for item in self._waiting)
        if changed := self._policies.overload.observe(waiting, now_ms):
            self._overloaded |= changed
            self._policies.overload.follow(self._overloaded)
        if self._waiting or self._running:
            self._agenda.at(now_ms + WINDOW_MS, self._tick)
        else:
            self._ticking = False

    def _adapt(self, order: AdaptiveOrder, now_ms: float) -> None:
        waiting = self._waiting
        of_tenant: dict[str, int] = {}
        for item in waiting:
            of_tenant[item.job.arrival.tenant] = of_tenant.get(item.job.arrival.tenant, 0) + 1
        count = max(1, len(waiting))
        load = PoolLoad(
            now_ms,
            len(waiting),
            sum(worker.row.slots for worker in self._workers.values()),
            with_objective=sum(item.job.arrival.slo_ms > 0 for item in waiting) / count,
            missed=self._missed.share(now_ms),
            tenants=len(of_tenant),
            top_tenant=max(of_tenant.values(), default=0) / count,
        )
        if order.observe(load):
            # As the store's, which begins anew with each change of ranks.
            self._clock = TenantClock(now_ms, order.credit_ms)
            for item in waiting:
                self._rank(item)
            waiting.sort()
