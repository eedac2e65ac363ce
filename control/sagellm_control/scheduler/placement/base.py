"""What a placement is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ...wire.request import Arrival
from ..forecast import Forecast
from ..open_engines import OpenEngines


@dataclass(slots=True, frozen=True)
class Hold:
    """Engines have room, and the request waits for a better one all the same; others may pass it meanwhile."""

    until_ms: float
    """Time (ms since the epoch) at which it takes whatever there is."""
    engine: str = field(default="", compare=False)
    """The better one; "": not known."""
    instead: str = field(default="", compare=False)
    """The best of those that have room; "": not known."""


class Placement(Protocol):
    """Chooses an engine. Pure but for its own turn counter: no I/O, no clock of its own."""

    @property
    def name(self) -> str:
        """As it is recorded for the pool."""
        ...

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | Hold | None:
        """An engine with room that may take the request; None: there is none; or a ``Hold``, for a bounded time.

        The cost must not grow with the number of engines: ask the view for the engine wanted, do not scan it.
        """
        ...
