"""What a scheduler decides about one request: its rank, its charge, and the engine it would give it to."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..store.steps.rank import Charge
from ..store.steps.rules import Rules
from ..wire.request import Arrival
from ..wire.states import Stage
from . import metrics
from .engine_ledger import Reservation
from .engine_watch import EngineWatch
from .forecast import Forecast
from .head_of_line import HeadOfLine
from .pool_policy import PoolPolicy

PREFIX_PLACEMENTS = frozenset({"prefix_affinity", "kv_cost", "speed_aware", "soonest"})
"""Placements for which it matters what other schedulers have placed where."""
PLACEMENTS_READ_S = 0.05
"""How old what is known of the others' placements may be, where the placement asks for prefixes."""

PROMPT_AHEAD_MS = 1e14
"""What a prompt is ahead of all requests: its own has been served in its order, and holds a place until it is read.
More than any handicap, and few enough digits to leave those of the order."""

_NO_CHARGE = Charge(0.0, 0.0, 0.0, "prompts")
"""Of the prompt of another request, which has been charged for it. Its start is the virtual time, as its flow has never
been served anything, so that nobody's lead moves that."""


@dataclass(slots=True)
class Choice:
    """An engine, with the room that has been taken of the snapshot for it."""

    engine: str
    taken: Reservation
    arrived_ms: float

    @property
    def kv_tokens(self) -> int:
        """KV tokens to reserve."""
        return math.ceil(self.taken.kv_tokens)

    @property
    def uncached_tokens(self) -> int:
        """Prompt tokens to charge its pace with."""
        return math.ceil(self.taken.uncached_tokens)

    @property
    def ttft_s(self) -> float:
        """The time to the first token that is predicted, from arrival."""
        return max(0.0, self.taken.first_token_ms - self.arrived_ms) / 1000


@dataclass(slots=True)
class Proposed:
    """A decision about one of several requests."""

    number: int
    """Which of them it is about."""
    rank: float
    """See ``Proposer.rank``."""
    charge: Charge | None
    choice: Choice | None
    """None: it has to wait."""
    wait_ms: int = 0
    """For how long from accept it may wait for an engine; 0: for ever."""


class Proposer:
    """The pool's policy at work on the snapshot. Nothing here waits."""

    def __init__(self, policy: PoolPolicy, watch: EngineWatch) -> None:
        self.policy = policy
        self.watch = watch
        self.line = HeadOfLine(policy, watch.engines)
        self._ttft = metrics.PREDICTED_TTFT.labels(watch.pool)

    def forecast(self, request: Arrival) -> Forecast:
        """What is expected of it."""
        return self.watch.estimates.forecast(request)

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        """See ``Order.handicap``."""
        return self.policy.order.handicap(request, forecast)

    def rank(self, request: Arrival, forecast: Forecast) -> float:
        """The rank; under a fair order the handicap, to which the store adds the start."""
        order = self.policy.order
        handicap = order.handicap(request, forecast)
        if request.stage == Stage.PREFILL:
            handicap -= PROMPT_AHEAD_MS
        return handicap if order.fair else self.policy.overload.start(request) + handicap

    def charge(self, request: Arrival, forecast: Forecast) -> Charge | None:
        """What its flow is charged; None under an order that is not fair."""
        order = self.policy.order
        if not order.fair:
            return None
        if request.stage == Stage.PREFILL:
            return _NO_CHARGE
        charge = order.charge(request, forecast, request.weight)
        longer = replace(forecast, output_tokens=forecast.output_tokens + 1)
        each = order.charge(request, longer, request.weight) - charge
        flow = order.flow(request)
        return Charge(charge, forecast.output_tokens, each, "" if flow == request.tenant else flow)

    def propose(self, requests: Sequence[Arrival], now_ms: float) -> list[Proposed]:
        """Rank requests, and choose an engine for one after the other, in the order of the ranks."""
        self.watch.engines.open_due(now_ms)
        forecasts = [self.forecast(request) for request in requests]
        ranks = [self.rank(request, forecast) for request, forecast in zip(requests, forecasts, strict=True)]
        proposed: list[Proposed] = []
        for number in sorted(range(len(requests)), key=ranks.__getitem__):
            request, forecast = requests[number], forecasts[number]
            choice = self.choose(request, forecast, now_ms)
            wait_ms = self.wait_ms(request, forecast)
            proposed.append(Proposed(number, ranks[number], self.charge(request, forecast), choice, wait_ms))
        return proposed

    @property
    def _prefixes_matter(self) -> bool:
        # To the placement, or to a pace, which is charged with what is not cached.
        return self.policy.placement.name in PREFIX_PLACEMENTS or self.policy.settings.tpot_slo_ms > 0

    def placements_due(self) -> bool:
        """Whether there may be more to know of what others have placed, and it matters."""
        if not self._prefixes_matter:
            return False
        return time.monotonic() - self.watch.placements_read_at >= PLACEMENTS_READ_S

    def choose(self, request: Arrival, forecast: Forecast, now_ms: float) -> Choice | None:
        """An engine for it now, and take its room; None: there is none, it waits for a better one, or it is late, so
        that the line deals with it."""
        if self.line.would_be_late(request, forecast, now_ms):
            return None
        taken = self.line.choose(request, forecast, now_ms)
        return Choice(taken.engine, taken, request.arrived_ms) if isinstance(taken, Reservation) else None

    def wait_ms(self, request: Arrival, forecast: Forecast) -> int:
        """For how long from accept it may wait: as its class may, and as long as it is not to be refused as late."""
        late_ms = self.line.refused_from_ms(request, forecast) - request.arrived_ms
        if late_ms == math.inf:
            return request.queue_ttl_ms
        late_ms = max(1, math.ceil(late_ms))
        return min(late_ms, request.queue_ttl_ms or late_ms)

    def settle(self, choice: Choice, *, used: bool) -> None:
        """The commit carried it out, or it did not."""
        if used:
            self._ttft.observe(choice.ttft_s)
        else:
            self.give_back(choice)

    def give_back(self, choice: Choice) -> None:
        """It was not used."""
        self.watch.engines.give_back(choice.taken)

    def rules(self) -> Rules:
        """What commits of now have in common."""
        policy = self.policy
        order, fair = policy.order, policy.order.fair
        credit_ms = order.credit_ms if fair else 0.0
        return Rules(policy.epoch, fair, policy.placement.name, self._prefixes_matter, credit_ms)
