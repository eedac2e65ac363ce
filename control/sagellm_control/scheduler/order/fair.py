"""Every tenant its share."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from .base import PATIENCE_MS, Order

LEAST_WEIGHT = 1e-3
"""Of a tenant; less would put its next request off for ever."""


class FairOrder:
    """Start-time fair queueing (Goyal, Vin, Cheng 1996) over tenants, charged like VTC (Sheng et al., OSDI 2024).

        charge = (w_in · prompt tokens + w_out · expected output tokens) / (weight of the tenant · tokens per ms)
        start  = the tenant's last start + its charge; at least the virtual time (the start of the last that was
                 assigned) where the tenant has nothing waiting
        rank   = start + class × aging + handicap of the inner order

    Who was idle is lifted to the virtual time: it gets no credit for it, and no debt. Work-conserving: a rank says who
    is first, never that an engine idles. What a request really produced is settled against its tenant when it ends.

    Bound: of two tenants that both have requests waiting all the time from some moment on, the weighted service that
    they have been handed since then differs by at most

        largest charge of the one + largest charge of the other + 2 · (largest - smallest handicap that occurs)

    which without handicaps is SFQ's theorem 1, and with equal weights VTC's ``2 · max(w_in·L_in, w_out·M)`` in terms
    of whole requests. What predictions get wrong adds to it until it is settled.

    Args:
        inner: the order inside a tenant; itself not fair.
        aging_ms: head start of a class over the next, in virtual ms: a request of class ``c`` is passed by no more
            than ``c × aging`` of service for each other tenant.
        tokens_per_s: weighted tokens that the pool serves a second, roughly: it makes a virtual ms as long as a real
            one when a single tenant keeps the pool busy. A constant of the pool, so that all schedulers charge alike.
    """

    name = "fair"
    fair = True

    def __init__(
        self,
        inner: Order,
        aging_ms: float,
        *,
        input_weight: float = 1.0,
        output_weight: float = 2.0,
        tokens_per_s: float = 10_000.0,
    ) -> None:
        if inner.fair:
            raise ValueError(f"inner must be an order that is not fair itself, not {inner.name!r}")
        self.inner = inner
        self.aging_ms = aging_ms
        self.input_weight = input_weight
        self.output_weight = output_weight
        self.ms_per_token = 1000 / tokens_per_s
        self.patience_ms: float = max(PATIENCE_MS, inner.patience_ms)

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        return int(request.priority) * self.aging_ms + self.inner.handicap(request, forecast)

    def flow(self, request: Arrival) -> str:
        return request.tenant

    def haste(self, request: Arrival) -> float:
        return 1.0  # one tenant at the pool's speed, see tokens_per_s

    def charge(self, request: Arrival, forecast: Forecast, weight: float = 1.0) -> float:
        prompt_tokens = forecast.prompt_tokens or request.prompt_tokens
        return self.cost(prompt_tokens, forecast.output_tokens, weight)

    def cost(self, prompt_tokens: float, output_tokens: float, weight: float = 1.0) -> float:
        """What so many tokens cost a tenant (virtual ms); what was charged and what it came to are settled with it."""
        tokens = self.input_weight * prompt_tokens + self.output_weight * output_tokens
        return tokens * self.ms_per_token / max(weight, LEAST_WEIGHT)
