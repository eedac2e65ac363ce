"""What becomes of those at the head of the line: the decisions that the scheduler and the simulator share."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol, TypeVar

from ..wire.request import Arrival
from .engine_load import Reservation
from .forecast import Forecast
from .lateness import Lateness, Verdict, step_back_ms
from .open_engines import OpenEngines
from .order import Order
from .overload import OverloadMode
from .passing import may_pass
from .placement import Hold, Placement, least_loaded

KEPT_FREE_MS = 2_000.0
"""An engine is kept free for a large request for so long; then it is looked at again whether that is still needed."""
MOST_REMEMBERED = 20_000
"""Requests of which it is remembered why they were passed."""


class Policies(Protocol):
    """The pool's, as they are now."""

    @property
    def order(self) -> Order: ...

    @property
    def placement(self) -> Placement: ...

    @property
    def lateness(self) -> Lateness: ...

    @property
    def overload(self) -> OverloadMode: ...


class Action(StrEnum):
    """What becomes of a request that is looked at."""

    PLACE = "place"
    """Room has been taken for it."""
    PASS = "pass"
    """It stays where it is, and the next is looked at."""
    STEP_BACK = "step_back"
    REFUSE = "refuse"
    """It would be late, and was not to be served late."""
    SHED = "shed"
    """It has waited for too long in an overloaded pool."""
    STOP = "stop"
    """Nobody from here on can be placed now."""


@dataclass(slots=True)
class Decision:
    """About one request."""

    action: Action
    taken: Reservation | None = None
    """Of one that is placed."""
    since_ms: float = 0.0
    """Of one that steps back or ends: from which moment that holds."""
    rank: float = 0.0
    """Of one that steps back: its new rank."""


@dataclass(slots=True)
class Candidate:
    """A request in the line."""

    arrival: Arrival
    forecast: Forecast
    rank: float
    stepped_back: bool = False
    tried: bool = field(kw_only=True)
    """An engine had it, and may have answered in part: it waits for another try, however late."""


@dataclass(slots=True)
class Look:
    """What one look down the line has met so far."""

    holding: Counter[Hashable] = field(default_factory=Counter[Hashable])
    """Requests in time that were passed because they hold out for a better engine, by the engines that may serve them
    (``OpenEngines.group``)."""
    blocked: Candidate | None = None
    """The first that has found no room for as long as its order's patience."""
    in_vain: int = 0
    """Requests for which there was no engine."""
    stood_back: int = 0
    """Late ones that left what is free to those that hold out."""
    next_hold_ms: float = float("inf")
    """When the first of the holds ends, or the first engine that has failed one may have it again."""
    held: deque[Candidate] = field(default_factory=deque[Candidate])
    """Those that hold out, under an order with a reach: the first in line first."""

    def copy(self) -> Look:
        """For a page of the line that may have to be looked at again."""
        return replace(self, held=self.held.copy(), holding=self.holding.copy())


@dataclass(slots=True)
class TooSlow:
    """On what has room it would be late, and a faster engine may still be in time; then it is asked again."""

    until_ms: float
    """From here on it is late on that one as well."""


_T = TypeVar("_T")

_PASS, _STOP = Decision(Action.PASS), Decision(Action.STOP)


class HeadOfLine:
    """Decides about requests one by one, in the order of their ranks. No I/O, no clock of its own.

    - Late is judged by the prompt tokens that the best engine would still have to read, so a cached prompt is not given
      up. Who is late steps behind everybody, or ends.
    - Who holds out for a better engine is passed, and not asked again before the hold ends or that engine can take it.
      A late one takes no engine while as many that are in time hold out as are open of those that may serve it.
    - Under an order with a reach (``Order.reach_ms``) who is late keeps its place instead, and who has been passed by
      what ranks further behind takes any engine: so no flow that has had far more service lives on the room that
      others leave while they hold out.
    - Who would be late on the engine that has room, but not on the fastest, waits for that as long as that holds; it
      keeps nobody from what is free.
    - Who waits for others than the engine that has failed it takes that one when its time is over.
    - Who finds no room on the open engines may find it on those that their pace has closed: only after the order's
      patience it counts as blocked. Those far behind it (``may_pass``) then leave one engine free for it; they may use
      the others.

    What is remembered (holds, and since when there was no room) speeds up or delays, and is safe to lose.
    """

    def __init__(self, policies: Policies, engines: OpenEngines) -> None:
        self._policies = policies
        self._engines = engines
        self._holds: dict[str, Hold] = {}
        self._held_enough: dict[str, bool] = {}
        self._unfit_since_ms: dict[str, float] = {}

    def decide(self, one: Candidate, look: Look, now_ms: float) -> Decision:
        """What becomes of this one, the next in line; room is taken of the engines for one that is placed."""
        engines, arrival = self._engines, one.arrival
        if not engines.open and not engines.keeps_any:
            return _STOP
        overload = self._policies.overload
        if overload.since_ms and not (arrival.stage or one.tried) and overload.refuses(arrival, now_ms):
            return self._out(arrival, Decision(Action.SHED, since_ms=overload.refused_from_ms(arrival)))
        if one.stepped_back and look.holding[engines.group(arrival)] >= max(1, engines.open_to(arrival)):
            look.stood_back += 1
            return _PASS
        if hold := self._holds.get(arrival.id):
            if now_ms < hold.until_ms and not (hold.engine and engines.can_take(hold.engine, arrival, one.forecast)):
                return self._holds_out(one, hold, look)
            del self._holds[arrival.id]
        if (late := self._judge(one, now_ms)) is not None:
            return self._out(arrival, late)
        blocked = look.blocked
        if blocked is not None and not may_pass(one.rank, blocked.rank, self._policies.order.patience_ms):
            self._keep_free(blocked, now_ms)
        choice = self.choose(arrival, one.forecast, now_ms)
        if isinstance(choice, Reservation):
            while look.held and one.rank > look.held[0].rank + self._policies.order.reach_ms:
                self._hold_no_more(look.held.popleft().arrival.id)
            return Decision(Action.PLACE, choice)
        if isinstance(choice, TooSlow):
            # What is free is of no use to it, so it keeps nobody from it.
            look.in_vain += 1
            look.next_hold_ms = min(look.next_hold_ms, choice.until_ms)
            return _PASS
        if choice is not None:
            return self._holds_out(one, choice, look)
        look.in_vain += 1
        look.next_hold_ms = min(look.next_hold_ms, engines.forbidden_until_ms(arrival))
        if look.blocked is None and self._is_blocked(one, now_ms):
            look.blocked = one
        return _PASS

    def choose(self, arrival: Arrival, forecast: Forecast, now_ms: float) -> Reservation | Hold | TooSlow | None:
        """Room on an engine, taken; or a hold, remembered; None: no engine that it may use has room."""
        engines = self._engines
        wanted = engines.kept(arrival, forecast) or self._policies.placement.choose(arrival, forecast, engines, now_ms)
        if isinstance(wanted, Hold) and arrival.id in self._held_enough:
            wanted = wanted.instead or least_loaded(arrival, forecast, engines)
        if isinstance(wanted, Hold):
            _remember(self._holds, arrival.id, wanted)
            return wanted
        if wanted is None:
            return None
        if engines.speeds_differ and (slow := self._too_slow(wanted, arrival, forecast, now_ms)):
            return slow
        return engines.reserve(wanted, arrival, forecast, now_ms)

    def would_be_late(self, arrival: Arrival, forecast: Forecast, now_ms: float) -> bool:
        """Whether one that is not in the line yet would step back or be refused at its head."""
        if not self._policies.lateness.objective_ms(arrival):
            return False
        return self._judge(Candidate(arrival, forecast, 0.0, tried=False), now_ms) is not None

    def refused_from_ms(self, arrival: Arrival, forecast: Forecast) -> float:
        """From when on it is to be refused as late, wherever in the line it is; inf: never. By what is cached now."""
        lateness = self._policies.lateness
        objective_ms = lateness.objective_ms(arrival)
        if not objective_ms or arrival.stage or not lateness.refuses(arrival):
            return float("inf")
        return arrival.arrived_ms + objective_ms - self._hopeful_ms(arrival, forecast)

    def forget(self, request_id: str) -> None:
        """It has left the line."""
        self._holds.pop(request_id, None)
        self._held_enough.pop(request_id, None)
        self._unfit_since_ms.pop(request_id, None)

    def _too_slow(self, engine: str, arrival: Arrival, forecast: Forecast, now_ms: float) -> TooSlow | None:
        # It would be late there, and the fastest engine that it may use could still be in time.
        load, objective_ms = self._engines.load_of(engine), self._policies.lateness.objective_ms(arrival)
        if load is None or not objective_ms or arrival.stage:
            return None
        speeds = self._engines.speeds_of(arrival)
        if not speeds.differ:
            return None
        uncached = self._engines.uncached_tokens(engine, arrival, forecast)
        due_ms = arrival.arrived_ms + objective_ms
        first_ms = max(now_ms, load.prefill_until_ms) + uncached * 1000 / load.row.speed.prefill_tps
        until_ms = due_ms - uncached * 1000 / speeds.fastest
        return TooSlow(until_ms) if first_ms > due_ms and now_ms < until_ms else None

    def _judge(self, one: Candidate, now_ms: float) -> Decision | None:
        lateness, arrival = self._policies.lateness, one.arrival
        if arrival.stage or one.tried:
            return None  # what was done of it is paid for
        # What would be in time on the fastest engine with nothing cached need not be looked up.
        if lateness.slack_ms(arrival, self._fastest_ms(arrival, one.forecast), now_ms) >= 0:
            return None
        prefill_ms = self._hopeful_ms(arrival, one.forecast)
        verdict = lateness.judge(arrival, prefill_ms, now_ms, stepped_back=one.stepped_back)
        if verdict is Verdict.PLACE:
            return None
        since_ms = arrival.arrived_ms + lateness.objective_ms(arrival) - prefill_ms
        if verdict is Verdict.REFUSE:
            return Decision(Action.REFUSE, since_ms=since_ms)
        if not (back_ms := step_back_ms(self._policies.order, arrival)):
            self._hold_no_more(arrival.id)
            return None
        return Decision(Action.STEP_BACK, since_ms=since_ms, rank=one.rank + back_ms)

    def _fastest_ms(self, arrival: Arrival, forecast: Forecast) -> float:
        engines = self._engines
        fastest_tps = engines.speeds_of(arrival).fastest if engines.speeds_differ else 0.0
        return forecast.prefill_ms * (engines.usual_tps / fastest_tps if fastest_tps else 1.0)

    def _hopeful_ms(self, arrival: Arrival, forecast: Forecast) -> float:
        best = self._engines.with_prefix(arrival, 1)
        return self._fastest_ms(arrival, forecast) * (1 - best[0][1] / len(arrival.prefix) if best else 1.0)

    def _out(self, arrival: Arrival, decision: Decision) -> Decision:
        self._engines.release_kept(arrival.id)
        return decision

    def _hold_no_more(self, request_id: str) -> None:
        self._holds.pop(request_id, None)
        _remember(self._held_enough, request_id, value=True)

    def _holds_out(self, one: Candidate, hold: Hold, look: Look) -> Decision:
        look.holding[self._engines.group(one.arrival)] += not one.stepped_back
        if self._policies.order.reach_ms < math.inf:
            look.held.append(one)
        look.next_hold_ms = min(look.next_hold_ms, hold.until_ms)
        return _PASS

    def _is_blocked(self, one: Candidate, now_ms: float) -> bool:
        since_ms = self._unfit_since_ms.get(one.arrival.id)
        if since_ms is None:
            _remember(self._unfit_since_ms, one.arrival.id, now_ms)
            return False
        # Room is not what one lacks whose model no engine serves.
        patience_ms = self._policies.order.patience_ms
        return now_ms - since_ms > patience_ms and self._engines.roomiest(one.arrival) is not None

    def _keep_free(self, blocked: Candidate, now_ms: float) -> None:
        engines = self._engines
        if engines.kept_for(blocked.arrival.id) is None:
            roomiest = engines.roomiest(blocked.arrival)
            if roomiest is not None:
                engines.keep_free(roomiest, blocked.arrival.id, now_ms + KEPT_FREE_MS)


def _remember(memory: dict[str, _T], request_id: str, value: _T) -> None:
    if len(memory) >= MOST_REMEMBERED and request_id not in memory:
        del memory[next(iter(memory))]
    memory[request_id] = value
