"""Watches the pool and moves between the other orders, by rules that can be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...wire.request import Arrival
from ..forecast import Forecast
from .base import Order

CROWDED = 2.0
"""Waiting requests for each slot of the pool: beyond it they wait longer than those that run take."""
QUEUED = 0.25
"""Waiting requests for each slot: a burst that the next second or two will have served."""
DOMINANT = 0.5
"""Share of what waits that is one tenant's, while others wait as well."""
MISSED = 0.05
"""Share of the objectives missed lately: one in twenty is what a p95 allows."""
BACK = 0.5
"""A state is left when what made it has fallen to half of what it took to enter it."""
DWELL_MS = 10_000.0
"""A rule has to hold for so long before it moves the pool: several answers' worth of evidence."""


@dataclass(slots=True, frozen=True)
class PoolLoad:
    """What the adaptive order looks at: one sample of a pool."""

    now_ms: float
    waiting: int
    slots: int
    """Of all READY engines."""
    with_objective: float = 0.0
    """Share of what waits that has an objective for the first token."""
    missed: float = 0.0
    """Share of the objectives that the requests of the last half minute missed."""
    tenants: int = 1
    """That have requests waiting."""
    top_tenant: float = 0.0
    """Share of what waits that belongs to the tenant with the most."""

    @property
    def queue(self) -> float:
        """Waiting requests for each slot."""
        return self.waiting / max(1, self.slots)


class AdaptiveOrder:
    """Delegates to the order that the load asks for.

    The first rule that holds:

    | state of the pool | rule | order |
    | --- | --- | --- |
    | crowded out by one | > 0.25 waiting a slot, two tenants or more, one has over half of what waits | ``fair`` |
    | over capacity | > 2 waiting a slot; or > 5 % of objectives missed and > 0.25 waiting a slot | ``shortest`` |
    | tight | > 0.25 waiting a slot, and most of it has an objective | ``slo_aware`` |
    | calm | none of these | ``priority`` |

    Hysteresis: a state that has been entered is left at half of its thresholds, and a rule must hold for 10 s before
    it moves the pool. A single sample, however wild, changes nothing.

    Every bound on waiting is that of the order that is current; a move re-ranks what waits.

    Args:
        orders: the delegates by name: ``priority``, ``slo_aware``, ``shortest``, ``fair``.
    """

    name = "adaptive"

    def __init__(self, orders: Mapping[str, Order]) -> None:
        self._orders = dict(orders)
        self.current: Order = self._orders["priority"]
        self.why = "calm: the order of a pool that has told nothing yet"
        """Why it is the current one, for people."""
        self._wanted = self.current.name
        self._wanted_since_ms: float | None = None

    def observe(self, load: PoolLoad) -> bool:
        """Take a sample; whether the pool moved to another order (what waits is to be ranked again)."""
        wanted, why = self._judge(load)
        if wanted != self._wanted or self._wanted_since_ms is None:
            self._wanted, self._wanted_since_ms = wanted, load.now_ms
        if wanted == self.current.name or load.now_ms - self._wanted_since_ms < DWELL_MS:
            return False
        self.current, self.why = self._orders[wanted], why
        return True

    def adopt(self, name: str, why: str) -> None:
        """Take over what another scheduler of the pool has moved to."""
        if name in self._orders:
            self.current, self.why = self._orders[name], why

    def _judge(self, load: PoolLoad) -> tuple[str, str]:
        def over(threshold: float, order: str) -> float:
            return threshold * (BACK if self.current.name == order else 1.0)

        queue = f"{load.waiting} wait for {load.slots} slots"
        if (
            load.tenants >= 2
            and load.queue > over(QUEUED, "fair")
            and load.top_tenant > over(DOMINANT, "fair")
            and load.top_tenant > 1.0 / load.tenants
        ):
            return "fair", f"crowded out by one: {queue}, {load.top_tenant:.0%} of them of one tenant"
        if load.queue > over(CROWDED, "shortest"):
            return "shortest", f"over capacity: {queue}"
        if load.missed > over(MISSED, "shortest") and load.queue > over(QUEUED, "shortest"):
            return "shortest", f"over capacity: {load.missed:.0%} of the objectives were missed, {queue}"
        if load.queue > over(QUEUED, "slo_aware") and load.with_objective > over(0.5, "slo_aware"):
            return "slo_aware", f"tight: {queue}, {load.with_objective:.0%} of them with an objective"
        return "priority", f"calm: {queue}"

    @property
    def fair(self) -> bool:
        """Of the current order."""
        return self.current.fair

    @property
    def patience_ms(self) -> float:
        """Of the current order."""
        return self.current.patience_ms

    @property
    def reach_ms(self) -> float:
        """Of the current order."""
        return self.current.reach_ms

    @property
    def credit_ms(self) -> float:
        """Of the current order."""
        return self.current.credit_ms

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        return self.current.handicap(request, forecast)

    def flow(self, request: Arrival) -> str:
        return self.current.flow(request)

    def haste(self, request: Arrival) -> float:
        return self.current.haste(request)

    def charge(self, request: Arrival, forecast: Forecast, weight: float = 1.0) -> float:
        return self.current.charge(request, forecast, weight)
