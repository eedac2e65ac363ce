"""What a placement is."""

from __future__ import annotations

from typing import Protocol

from ...wire.request import Arrival
from ..open_engines import OpenEngines


class Placement(Protocol):
    """Chooses an engine. Pure but for its own turn counter: no I/O, no clock."""

    name: str

    def choose(self, request: Arrival, engines: OpenEngines) -> str | None:
        """An engine with room that may take the request; None: there is none.

        The cost must not grow with the number of engines: ask the view for the engine wanted, do not scan it.
        """
        ...
