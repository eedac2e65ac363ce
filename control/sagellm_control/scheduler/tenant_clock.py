"""The virtual time of fair orders, as the store's scripts keep it: the same in Python, for simulator and manager."""

from __future__ import annotations


class TenantClock:
    """Start-time fair queueing (Goyal, Vin, Cheng 1996), with VTC's lift (Sheng et al., OSDI 2024).

        admit:   start = the tenant's next start; where it has nothing waiting, at least the virtual time - credit.
                 The next start = start + charge
        assign:  virtual time = max(virtual time, start of what was assigned)
        settle:  the next start moves by what was charged too much or too little

    Only who has nothing waiting is lifted: handicaps (classes, inner orders) let virtual time run ahead of the start
    of a request that waits, and its tenant must not lose that lead each time it sends another.

    A tenant that has nothing waiting and whose credit is whole again is forgotten: it would start there anyway.
    Under an order that shares among something else (``Order.flow``), the tenants here are that.

    Args:
        now_ms: where virtual time begins; the time of day, so that its ranks lie near those of other orders.
        credit_ms: how far before the virtual time those start that had nothing waiting.
    """

    def __init__(self, now_ms: float = 0.0, credit_ms: float = 0.0) -> None:
        self.virtual_ms = now_ms
        self._credit_ms = credit_ms
        self._next: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._kept = 0

    def admit(self, tenant: str, charge_ms: float) -> float:
        """The start of the tenant's next request, which is charged so much and waits from now on."""
        start = self.next_start(tenant)
        self._next[tenant] = start + charge_ms
        self._waiting[tenant] = self._waiting.get(tenant, 0) + 1
        self._forget_idle()
        return start

    def assign(self, tenant: str, start_ms: float) -> None:
        """A request of the tenant with this start has been handed to an engine."""
        self.virtual_ms = max(self.virtual_ms, start_ms)
        self._leave(tenant)

    def requeue(self, tenant: str) -> None:
        """A request that had been handed to an engine waits again, at its old rank."""
        self._waiting[tenant] = self._waiting.get(tenant, 0) + 1

    def drop(self, tenant: str, charge_ms: float) -> None:
        """A request that was waiting has ended without having been served: its charge is given back."""
        self._leave(tenant)
        if tenant in self._next:
            self._next[tenant] -= charge_ms

    def settle(self, tenant: str, by_ms: float) -> None:
        """Move the tenant's next start by actual minus charged, when a request ends. Never behind the virtual time:
        a mistake is no credit."""
        if tenant in self._next:
            self._next[tenant] = max(min(self.virtual_ms, self._next[tenant]), self._next[tenant] + by_ms)

    def next_start(self, tenant: str) -> float:
        """Where the tenant's next request would start."""
        lifted_ms = self.virtual_ms - self._credit_ms
        start = self._next.get(tenant, lifted_ms)
        return start if self._waiting.get(tenant) else max(lifted_ms, start)

    @property
    def tenants(self) -> int:
        """Tenants that are remembered."""
        return len(self._next)

    def _leave(self, tenant: str) -> None:
        left = self._waiting.get(tenant, 0) - 1
        if left > 0:
            self._waiting[tenant] = left
        else:
            self._waiting.pop(tenant, None)

    def _forget_idle(self) -> None:
        # Whenever the number has doubled, so that it costs a constant a request.
        if len(self._next) <= 2 * self._kept + 64:
            return
        lifted_ms = self.virtual_ms - self._credit_ms
        self._next = {
            tenant: start for tenant, start in self._next.items() if start > lifted_ms or tenant in self._waiting
        }
        self._kept = len(self._next)
