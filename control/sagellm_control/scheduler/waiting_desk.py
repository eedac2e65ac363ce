"""Deals with what waits: places the head of the line while any engine has room."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..store.connect import Store
from ..store.steps.assign import Assigned, Late, Placement, assign
from ..store.waiting_line import Waiting, WaitingLine
from . import metrics
from .arrival_desk import AfterAdmission
from .forecast import Forecast
from .lateness import LATE_HANDICAP_MS, Verdict
from .passing import may_pass
from .proposal import Choice, Proposer

DEEPEST_LOOK = 10_000
"""So many requests at the head may be unable to use what is free; beyond them nobody is looked for."""
WIDEST_LOOK = 2_000
"""Requests read at once where many at the head have to be passed."""
STUCK_FOR_S = 0.25
"""A line in which nobody could be placed is looked at again after this, if nothing has changed before."""
KEPT_FREE_MS = 2_000.0
"""An engine is kept free for a large request for so long; then it is looked at again whether that is still needed."""


@dataclass(slots=True)
class Decided:
    """Decisions about the head of the line."""

    placements: list[Placement]
    choices: list[Choice | None]
    useful: bool = False
    """Whether any of them changes anything."""


class WaitingDesk:
    """The waiting set of one pool, from its head."""

    def __init__(self, store: Store, pool: str, proposer: Proposer, *, batch: int) -> None:
        self._store = store
        self._pool = pool
        self._proposer = proposer
        self._watch = proposer.watch
        self._line = WaitingLine(store, pool)
        self._batch = batch
        self._stuck: tuple[int, float] | None = None
        """How many waited when none of them could use what is free, and when that was (monotonic)."""
        self._waiting = 0
        """Requests that waited when the store last told."""

    def worth_a_look(self, after: AfterAdmission) -> bool:
        """Whether somebody who waits may be placed, after this commit."""
        self._waiting = after.waiting
        if not after.waiting or not after.room:
            return False
        if after.added or self._stuck is None:
            return True
        waited, since = self._stuck
        return after.waiting != waited or time.monotonic() - since > STUCK_FOR_S

    def opens_at_ms(self) -> float | None:
        """When somebody who waits may be placed although nothing has happened; None: never."""
        if not self._waiting:
            return None
        times = [min(self._proposer.holds)] if self._proposer.holds else []
        if (opening := self._watch.engines.next_opening_ms) is not None:
            times.append(opening)
        return min(times, default=None)

    async def head(self) -> Waiting | None:
        """The first in line."""
        return next(iter(await self._line.read(0, 1)), None)

    async def assign(self) -> int:
        """Place the head of the line while anybody waits and any engine has room; how many were placed."""
        placed = 0
        passed = 0
        fresh = False
        blocked: Waiting | None = None
        engines = self._watch.engines
        engines.open_due(self._watch.clock.now_ms())
        self._proposer.holds.clear()
        self._stuck = None
        while True:
            head = await self._line.read(passed, self._window(passed))
            decided, blocked_here = self._decide(head, blocked)
            if not decided.useful:
                if not head:
                    if passed:
                        self._stuck = (passed, time.monotonic())
                    self._waiting = passed
                    return placed
                if not fresh:
                    # Before giving up, or looking further down: is that still so?
                    await self._watch.read()
                    if engines.separated:
                        self._line.forget_all()  # some may have been prefilled since they were met
                    fresh = True
                elif engines.open and passed < DEEPEST_LOOK:
                    passed += len(head)
                    blocked = blocked_here
                else:
                    return placed
                continue
            answer = await assign(
                self._store, self._pool, decided.placements, passed=passed, rules=self._proposer.rules()
            )
            placed += self._take_in(decided, answer)
            self._waiting = answer.room.waiting
            if answer.room.waiting and not answer.room.open_engines and engines.open:
                await self._watch.read()  # what keeps them closed may open them by time
            if not answer.room.waiting or not answer.room.open_engines:
                return placed
            fresh = False
            if answer.results[-1] == "stale":
                metrics.STALE.labels(self._pool).inc()
                await self._watch.read()
                passed, blocked = 0, None

    def _take_in(self, decided: Decided, answer: Assigned) -> int:
        assigned = answer.results.count("assigned")
        metrics.BATCH.labels(self._pool).observe(len(decided.placements))
        metrics.ASSIGNED.labels(self._pool).inc(assigned)
        for number, (placement, choice) in enumerate(zip(decided.placements, decided.choices, strict=True)):
            result = answer.results[number] if number < len(answer.results) else ""
            if choice is not None and result != "assigned":
                self._proposer.give_back(choice)
            if result not in ("", "passed"):
                self._line.forget(placement.request_id)
            if result in ("late", "refused", "shed"):
                metrics.LATE.labels(self._pool, result).inc()
        self._watch.take_over(answer.room)
        return assigned

    def _decide(self, head: list[Waiting], blocked: Waiting | None) -> tuple[Decided, Waiting | None]:
        """Decisions, and the first in line that fits no engine."""
        decided = Decided([], [])
        proposer, engines = self._proposer, self._watch.engines
        patience_ms = proposer.policy.order.patience_ms
        now_ms = self._watch.clock.now_ms()
        for waiting in head:
            arrival = waiting.arrival
            if not engines.open and engines.kept_for(arrival.id) is None:
                break
            forecast = proposer.forecast(arrival)
            placement = Placement(arrival.id, waiting.attempts, None, stage=arrival.stage)
            choice: Choice | None = None
            if not self._judge(placement, waiting, forecast, now_ms):
                if blocked is not None and not may_pass(waiting.rank, blocked.rank, patience_ms):
                    self._keep_free(blocked, now_ms)
                choice = proposer.choose(arrival, forecast, now_ms)
                if choice is not None:
                    placement.engine = choice.engine
                    placement.kv_tokens, placement.uncached_tokens = choice.kv_tokens, choice.uncached_tokens
                elif blocked is None and engines.roomiest(arrival, forecast) is not None:
                    blocked = waiting
            decided.useful |= choice is not None or placement.late is not None
            decided.placements.append(placement)
            decided.choices.append(choice)
        return decided, blocked

    def _judge(self, placement: Placement, waiting: Waiting, forecast: Forecast, now_ms: float) -> bool:
        """Whether it is too late for it, and what then becomes of it."""
        lateness, arrival = self._proposer.policy.lateness, waiting.arrival
        if arrival.stage:
            return False  # its prefill is paid for
        overload = self._proposer.policy.overload
        if overload.since_ms and overload.refuses(arrival, now_ms):
            placement.late, placement.late_since_ms = Late.SHED, overload.refused_from_ms(arrival)
            return True
        objective_ms = lateness.objective_ms(arrival)
        if not objective_ms:
            return False
        verdict = lateness.judge(arrival, forecast, now_ms, stepped_back=waiting.late)
        if verdict is Verdict.PLACE:
            return False
        placement.late = Late.REFUSE if verdict is Verdict.REFUSE else Late.STEP_BACK
        placement.late_since_ms = arrival.arrived_ms + objective_ms - forecast.prefill_ms
        placement.rank = waiting.rank + LATE_HANDICAP_MS
        return True

    def _keep_free(self, blocked: Waiting, now_ms: float) -> None:
        engines = self._watch.engines
        if engines.kept_for(blocked.arrival.id) is None:
            roomiest = engines.roomiest(blocked.arrival, self._proposer.forecast(blocked.arrival))
            if roomiest is not None:
                engines.keep_free(roomiest, blocked.arrival.id, now_ms + KEPT_FREE_MS)

    def _window(self, passed: int) -> int:
        # A few more than there are places, for those at the head that cannot use what is free.
        window = min(self._batch, self._watch.engines.places + 8)
        return max(window, min(WIDEST_LOOK, passed))
