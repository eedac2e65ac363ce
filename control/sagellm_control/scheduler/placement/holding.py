"""How long a request may wait for a better engine than there is."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from ..open_engines import OpenEngines
from .base import Hold

MOST_HELD = 10_000
"""Requests whose wait is remembered; more than can be at the head of a line at once."""


class Holding:
    """Lets a request hold out for a better engine, and no longer than a bounded time in all.

    The time runs from the first hold and not from the arrival: who has waited its turn in a long line would never
    hold out otherwise, and a long line is where a cached prompt is worth most. It is remembered after it has run out:
    who comes back (its commit was too late, its attempt failed) has had its patience.

    Args:
        longest_ms: of all holds of a request together; 0: none.
        patience: so many times as long for a request that has an objective for its first token: up to half of that,
            waiting costs it nothing, and the work that is saved is there for others.
    """

    def __init__(self, longest_ms: float, *, patience: float = 1.0) -> None:
        self.longest_ms = longest_ms
        self.patience = patience
        self._since: dict[str, float] = {}

    def hold(
        self, request: Arrival, now_ms: float, until_ms: float = float("inf"), *, engine: str = "", instead: str = ""
    ) -> Hold | None:
        """A hold for an engine until then, or to the end of the patience if that is sooner; None: it has run out."""
        since = self._since.get(request.id)
        if since is None:
            if self.longest_ms <= 0:
                return None
            if len(self._since) >= MOST_HELD:
                del self._since[next(iter(self._since))]
            self._since[request.id] = since = now_ms
        end_ms = since + self.longest_ms * (self.patience if request.slo_ms else 1.0)
        if now_ms >= end_ms:
            return None
        return Hold(min(end_ms, max(until_ms, now_ms + SHORTEST_MS)), engine, instead)

    def for_engine(
        self, wanted: str, other: str, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float
    ) -> Hold | None:
        """A hold for an engine with a cached beginning while another one is open, if that pays."""
        until_ms = worth_waiting_until_ms(
            wanted, other, request, forecast, engines, now_ms, patient=self.patience > 1.0
        )
        return None if until_ms is None else self.hold(request, now_ms, until_ms, engine=wanted, instead=other)


def worth_waiting_until_ms(
    wanted: str,
    other: str,
    request: Arrival,
    forecast: Forecast,
    engines: OpenEngines,
    now_ms: float,
    *,
    patient: bool = False,
) -> float | None:
    """Until when it pays to wait for one engine while another one is open; None: not at all.

        wait ≤ prefill saved / rate · READY engines / open engines        and the objective is not in danger

    The rate is that at which the other engine does prefills: its pace, or its speed where it has none. With every
    engine open, a request waits no longer than it gains itself; the fewer are open, the more the saved time is worth,
    because somebody else gets it. Who is ``patient`` and has an objective waits for up to half of it in any case. An
    engine that its pace closed says when it opens; one that is full may open any moment.
    """
    wanted_load, other_load = engines.load_of(wanted), engines.load_of(other)
    if wanted_load is None or other_load is None:
        return None
    saved = engines.uncached_tokens(other, request, forecast) - engines.uncached_tokens(wanted, request, forecast)
    if saved <= 0:
        return None
    rate_tps = other_load.row.pace_tps or other_load.row.speed.prefill_tps
    latest_ms = now_ms + saved * 1000 / max(rate_tps, 1.0) * engines.ready / max(1, engines.open)
    if request.slo_ms:
        if patient:
            latest_ms = max(latest_ms, request.arrived_ms + PATIENT_FOR * request.slo_ms)
        latest_ms = min(latest_ms, request.arrived_ms + request.slo_ms - SAFETY * forecast.prefill_ms)
    opens_ms = wanted_load.opens_at_ms(now_ms)
    if opens_ms == float("inf"):
        opens_ms = latest_ms
    return opens_ms if now_ms < opens_ms <= latest_ms else None


SAFETY = 1.5
"""Prefills take longer than on an idle engine, since decode steps run in between: so much is kept of the slack."""
PATIENT_FOR = 0.5
"""Of its objective, a request that is patient."""
SHORTEST_MS = 1.0
"""Of a hold, so that nobody asks again in the same instant."""
