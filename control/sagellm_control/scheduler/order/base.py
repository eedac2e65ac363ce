"""What an order is."""

from __future__ import annotations

from typing import Protocol

from ...wire.request import Arrival


class Order(Protocol):
    """Ranks requests. Pure: no I/O, no clock of its own, the same answer for the same request.

    A rank is computed once, when a request is admitted, so it may only use what does not change while the request
    waits. Aging is expressed by ranks that are times: what came later has a larger rank whatever its class.
    """

    name: str

    def rank(self, request: Arrival) -> float:
        """The place of the request among those that wait; the lowest goes first. In ms, to three decimals."""
        ...
