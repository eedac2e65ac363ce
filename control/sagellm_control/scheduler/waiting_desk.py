"""Deals with what waits: places the head of the line while any engine has room."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..store.connect import Store
from ..store.steps.assign import Assigned, Late, Move, assign
from ..store.waiting_line import Waiting, WaitingLine
from ..wire.attempts import was_tried
from . import metrics
from .arrival_desk import AfterAdmission
from .head_of_line import Action, Candidate, Look
from .proposal import Choice, Proposer

DEEPEST_LOOK = 10_000
"""So many requests at the head may be unable to use what is free; beyond them nobody is looked for. Read in pages, and
again only when the line has changed (or ``STUCK_FOR_S`` later): to decide about so many takes some tens of ms."""
WIDEST_LOOK = 2_000
"""Requests read at once where many at the head have to be passed."""
STUCK_FOR_S = 0.25
"""A line in which nobody could be placed is looked at again after this, if nothing has changed before."""
LATE = {Action.STEP_BACK: Late.STEP_BACK, Action.REFUSE: Late.REFUSE, Action.SHED: Late.SHED}


@dataclass(slots=True)
class Decided:
    """Decisions about the head of the line."""

    moves: list[Move]
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
        self._next_hold_ms = float("inf")
        """When the first of those that hold out for a better engine, or another than the one that failed it, takes what
        there is."""

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
        opening_ms = self._watch.engines.next_opening_ms
        at_ms = self._next_hold_ms if opening_ms is None else min(self._next_hold_ms, opening_ms)
        return at_ms if at_ms < float("inf") else None

    async def head(self) -> Waiting | None:
        """The first in line."""
        return next(iter(await self._line.read(0, 1)), None)

    async def assign(self) -> int:
        """Place the head of the line while anybody waits and any engine has room; how many were placed."""
        placed = 0
        passed = 0
        fresh = False
        look = Look()
        engines = self._watch.engines
        engines.open_due(self._watch.clock.now_ms())
        self._next_hold_ms = float("inf")
        self._stuck = None
        while True:
            head = await self._line.read(passed, self._window(passed))
            look_here = look.copy()
            decided = self._decide(head, look_here)
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
                elif engines.alike and look_here.stood_back - look.stood_back == len(head):
                    return placed  # behind late ones are late ones, and they would leave the same engines alone
                elif engines.open and passed < DEEPEST_LOOK:
                    passed += len(head)
                    look = look_here
                else:
                    return placed
                continue
            answer = await assign(self._store, self._pool, decided.moves, passed=passed, rules=self._proposer.rules())
            placed += self._take_in(decided, answer)
            self._waiting = answer.room.waiting
            if answer.room.waiting and not answer.room.open_engines and engines.open:
                await self._watch.read()  # what keeps them closed may open them by time
            if not answer.room.waiting or not answer.room.open_engines:
                return placed
            fresh = False
            if answer.results[-1] == "stale":
                metrics.STALE.labels(self._pool).inc()
                # What was too early for the store, as a step of this machine's clock makes it, is so for ever else.
                await self._watch.clock.set()
                engines.open_due(self._watch.clock.now_ms())
                await self._watch.read()
                passed, look = 0, Look()

    def _take_in(self, decided: Decided, answer: Assigned) -> int:
        assigned = answer.results.count("assigned")
        metrics.BATCH.labels(self._pool).observe(len(decided.moves))
        metrics.ASSIGNED.labels(self._pool).inc(assigned)
        for number, (move, choice) in enumerate(zip(decided.moves, decided.choices, strict=True)):
            result = answer.results[number] if number < len(answer.results) else ""
            if choice is not None:
                self._proposer.settle(choice, used=result == "assigned")
            if result not in ("", "passed"):
                self._line.forget(move.request_id)
                if result != "stale":
                    self._proposer.line.forget(move.request_id)
            if result in ("late", "refused", "shed"):
                metrics.LATE.labels(self._pool, result).inc()
        self._watch.take_over(answer.room)
        return assigned

    def _decide(self, head: list[Waiting], look: Look) -> Decided:
        decided = Decided([], [])
        proposer = self._proposer
        now_ms = self._watch.clock.now_ms()
        for waiting in head:
            arrival = waiting.arrival
            forecast, tried = proposer.forecast(arrival), was_tried(waiting.attempts)
            candidate = Candidate(arrival, forecast, waiting.rank, waiting.late, tried=tried)
            decision = proposer.line.decide(candidate, look, now_ms)
            if decision.action is Action.STOP:
                break
            move = Move(arrival.id, waiting.attempts, None, stage=arrival.stage)
            choice: Choice | None = None
            if decision.taken is not None:
                choice = Choice(decision.taken.engine, decision.taken, arrival.arrived_ms)
                move.engine = choice.engine
                move.kv_tokens, move.uncached_tokens = choice.kv_tokens, choice.uncached_tokens
            elif decision.action is not Action.PASS:
                move.late = LATE[decision.action]
                move.late_since_ms, move.rank = decision.since_ms, decision.rank
            decided.useful |= decision.action is not Action.PASS
            decided.moves.append(move)
            decided.choices.append(choice)
        self._next_hold_ms = min(self._next_hold_ms, look.next_hold_ms)
        return decided

    def _window(self, passed: int) -> int:
        # A few more than there are places, for those at the head that cannot use what is free.
        window = min(self._batch, self._watch.engines.places + 8)
        return max(window, min(WIDEST_LOOK, passed))
