"""Every tenant its share."""

from __future__ import annotations

from ...wire.request import Arrival
from ..forecast import Forecast
from .base import PATIENCE_MS, Order

LEAST_WEIGHT = 1e-3
"""Of a tenant; less would put its next request off for ever."""

CREDIT_MS = 20_000.0
"""Virtual time by which who had nothing waiting starts ahead of those that had (Linux' CFS gave sleepers such a credit,
``place_entity``). Without it a tenant that uses half of its share pays for each long prompt with the wait of its next
request, as if it had left nothing to the others before: in docs/choosing-a-policy.md, one tenant at ten times its share
then makes the p95 TTFT of the others 1.5 times as long, and not 1.3."""

REACH_MS = 2 * CREDIT_MS
"""Virtual time by which who holds out for a better engine is passed. Holds find cached prompts, which is capacity for
all, but are no way for one that floods to get ahead. More than the credit, or who has all of it would be passed by that
much at once, and never hold out."""


class FairOrder:
    """Start-time fair queueing (Goyal, Vin, Cheng 1996) over tenants, charged like VTC (Sheng et al., OSDI 2024).

        charge = (w_in · prompt tokens + w_out · expected output tokens) / (weight of the tenant · tokens per ms)
        start  = the tenant's last start + its charge; at least the virtual time (the start of the last that was
                 assigned) less the credit where the tenant has nothing waiting
        rank   = start + class × aging + handicap of the inner order

    Who was idle is lifted to the virtual time less ``CREDIT_MS``: that much it may catch up, and no more.
    Work-conserving: a rank says who is first, never that an engine idles. What a request really produced is settled
    against its tenant when it ends. Who is late keeps its place: what it would be put behind is what floods the pool.

    Bound: of two tenants that both have requests waiting all the time from some moment on, the weighted service that
    they have been handed since then differs by at most

        largest charge of the one + largest charge of the other + 2 · (largest - smallest handicap that occurs)
        + credit + reach + what a single look at the line hands out

    The first row is SFQ's theorem 1 where there are no handicaps, and with equal weights VTC's
    ``2 · max(w_in·L_in, w_out·M)`` in terms of whole requests. Of the second, the credit is what the one may have left
    to the other before; the reach is by how much a request is passed that holds out for a better engine
    (``Order.reach_ms``); and that it is, is noticed after the look, in which each open engine is handed one or more. In
    tokens: ms · ``tokens_per_s`` / 1000, times the tenant's weight.

    What predictions get wrong adds to it until it is settled, and so does what the pool serves while a request of the
    one fits into no KV cache (for the order's patience), or waits for a faster engine (as its objective allows).

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
        self.reach_ms: float = REACH_MS
        self.credit_ms: float = CREDIT_MS

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
