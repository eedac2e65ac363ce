"""Which engines open by time, and when."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .engine_load import EngineLoad


class Kept(NamedTuple):
    """For whom an engine is kept free."""

    request_id: str
    until_ms: float
    """Nobody else gets it before; the request may have been cancelled."""


class Openings:
    """Engines that have a place and are closed until a time: by their pace, or kept free for a request that is too
    large for what is free."""

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self._due: list[tuple[float, str]] = []
        """Some of these times are outdated: what each is for is checked when it comes up."""

    def note(self, engine: str, at_ms: float) -> None:
        """Its pace closes the engine until then."""
        heapq.heappush(self._due, (at_ms, engine))

    def keep(self, engine: str, request_id: str, until_ms: float) -> None:
        """It is kept free for the request."""
        self.kept[engine] = Kept(request_id, until_ms)
        heapq.heappush(self._due, (until_ms, engine))

    def engines_for(self, request_id: str) -> Iterator[str]:
        """Engines that are kept free for the request."""
        return (engine for engine, kept in self.kept.items() if kept.request_id == request_id)

    def due(self, now_ms: float) -> Iterator[str]:
        """Engines whose time has come, each taken off the list; they are kept for nobody from then on."""
        while self._due and self._due[0][0] <= now_ms:
            _, engine = heapq.heappop(self._due)
            if engine in self.kept and self.kept[engine].until_ms <= now_ms:
                del self.kept[engine]
            yield engine

    def next_ms(self, loads: Mapping[str, EngineLoad]) -> float | None:
        """When the next of these READY engines opens; None: none that is known of does."""
        while self._due:
            at_ms, engine = self._due[0]
            load = loads.get(engine)
            if load is not None and not load.open and load.free > 0:
                kept = self.kept.get(engine)
                if at_ms == (kept.until_ms if kept else load.paced_until_ms):
                    return at_ms
            heapq.heappop(self._due)
        return None
