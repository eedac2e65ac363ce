"""The tenants' virtual time, as the store's scripts keep it: the same rules in Python, for simulator and manager."""

from __future__ import annotations


class TenantClock:
    """Start-time fair queueing (Goyal, Vin, Cheng 1996).

        admit:   start = max(virtual time, the tenant's next start); the next start = start + charge
        assign:  virtual time = max(virtual time, start of what was assigned)
        settle:  the next start moves by what was charged too much or too little

    A tenant whose next start is in the past is one that was idle: it is forgotten, since it starts at the virtual time.

    Args:
        now_ms: where virtual time begins; the time of day, so that its ranks lie near those of other orders.
    """

    def __init__(self, now_ms: float = 0.0) -> None:
        self.virtual_ms = now_ms
        self._next: dict[str, float] = {}
        self._looked_at = 0

    def admit(self, tenant: str, charge_ms: float) -> float:
        """The start of the tenant's next request, which is charged so much."""
        start = max(self.virtual_ms, self._next.get(tenant, self.virtual_ms))
        self._next[tenant] = start + charge_ms
        self._forget_idle()
        return start

    def assign(self, start_ms: float) -> None:
        """A request with this start has been handed to an engine."""
        self.virtual_ms = max(self.virtual_ms, start_ms)

    def settle(self, tenant: str, by_ms: float) -> None:
        """Move the tenant's next start: by actual minus charged when a request ends, by minus its charge when it ended
        without having been served. Never behind the virtual time: a mistake is no credit."""
        if tenant in self._next:
            self._next[tenant] = max(self.virtual_ms, self._next[tenant] + by_ms)

    def next_start(self, tenant: str) -> float:
        """Where the tenant's next request would start."""
        return max(self.virtual_ms, self._next.get(tenant, self.virtual_ms))

    @property
    def tenants(self) -> int:
        """Tenants that are remembered."""
        return len(self._next)

    def _forget_idle(self) -> None:
        # Whenever the number has doubled, so that it costs a constant a request.
        if len(self._next) <= 2 * self._looked_at + 64:
            return
        self._next = {tenant: start for tenant, start in self._next.items() if start > self.virtual_ms}
        self._looked_at = len(self._next)
