"""What a scheduler's order, placement, forecasts and fair starts are made of, for one model within this process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from ..scheduler.estimates import Estimates
from ..scheduler.guarded import GuardedOrder, GuardedPlacement
from ..scheduler.lateness import Lateness, step_back_ms
from ..scheduler.order import AdaptiveOrder, Order, PoolLoad
from ..scheduler.overload import OverloadMode
from ..scheduler.placement import Placement
from ..scheduler.policy_settings import DEFAULTS
from ..scheduler.tenant_clock import TenantClock
from ..wire.engine import EngineSpeed
from ..wire.request import Arrival
from .line import Line, Ticket

SAMPLED = 64
"""Waiting requests that are asked whether they have an objective."""


class LocalPolicy:
    """Ranks and charges by the order, guarded against its failures; learns how long answers become."""

    def __init__(self, order: Order, placement: Placement) -> None:
        self.order = GuardedOrder(order)
        self.placement = GuardedPlacement(placement)
        self.lateness = Lateness.of(DEFAULTS)
        self.overload = OverloadMode(DEFAULTS)
        self.estimates = Estimates()
        self._adaptive = order if isinstance(order, AdaptiveOrder) else None
        self._clock = TenantClock(time.time() * 1000, self.order.credit_ms)

    def ticket(self, arrival: Arrival) -> Ticket:
        """A request that wants a place."""
        return Ticket(arrival, self.estimates.forecast(arrival))

    def rank(self, ticket: Ticket) -> None:
        """Give it the rank under which it waits; its flow is charged."""
        order, arrival = self.order, ticket.arrival
        handicap = order.handicap(arrival, ticket.forecast)
        ticket.start_ms = arrival.arrived_ms
        if order.fair:
            ticket.charge_ms = order.charge(arrival, ticket.forecast, arrival.weight)
            ticket.flow = order.flow(arrival)
            ticket.start_ms = self._clock.admit(ticket.flow, ticket.charge_ms)
            ticket.charged = True
        ticket.rank = ticket.start_ms + handicap

    def placed(self, ticket: Ticket) -> None:
        """It has got its place."""
        if ticket.charged:
            self._clock.assign(ticket.flow, ticket.start_ms)
        elif self.order.fair:  # it did not have to wait
            self.rank(ticket)
            self._clock.assign(ticket.flow, ticket.start_ms)

    def dropped(self, ticket: Ticket) -> None:
        """It waits no more, and has not been served."""
        if ticket.charged:
            ticket.charged = False
            self._clock.drop(ticket.flow, ticket.charge_ms)

    def finished(self, ticket: Ticket, output_tokens: int | None) -> None:
        """It has been served, with an answer of so many tokens; None: nobody knows."""
        if output_tokens is None:
            return
        arrival = ticket.arrival
        self.estimates.settle(arrival.model, arrival.tenant, arrival.max_tokens, output_tokens)
        if ticket.charged and self.order.fair and self.order.flow(arrival) == ticket.flow:
            actual = replace(ticket.forecast, output_tokens=output_tokens)
            cost_ms = self.order.charge(arrival, actual, arrival.weight)
            self._clock.settle(ticket.flow, cost_ms - ticket.charge_ms)

    def adapt(self, line: Line, speeds: Iterable[EngineSpeed], places: int, batch: float, missed: float) -> bool:
        """Take over how the engines are, and show the adaptive order the line; whether it moved and all ranks are to
        be new.

        Args:
            places: of the READY engines.
            batch: requests that run on an engine.
            missed: share of the objectives missed lately.
        """
        self.estimates.learn_speed(speeds, batch)
        if self._adaptive is None:
            return False
        tenants = Counter(ticket.arrival.tenant for ticket in line)
        waiting, sample = len(line), [ticket.arrival.slo_ms > 0 for ticket in islice(line, SAMPLED)]
        load = PoolLoad(
            time.time() * 1000,
            waiting,
            places,
            with_objective=sum(sample) / max(1, len(sample)),
            missed=missed,
            tenants=max(1, len(tenants)),
            top_tenant=max(tenants.values(), default=0) / max(1, waiting),
        )
        return self._adaptive.observe(load)

    def rank_again(self, line: Line) -> None:
        """The order has changed: everybody gets a new rank."""
        self._clock = TenantClock(time.time() * 1000, self.order.credit_ms)
        for ticket in line.clear():
            ticket.charged = False
            self.rank(ticket)
            if ticket.stepped_back:
                ticket.rank += step_back_ms(self.order, ticket.arrival)
            line.add(ticket)
