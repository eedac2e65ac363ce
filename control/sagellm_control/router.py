"""Routers: one engine out of some candidates, for programs that route by themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from .types import EngineInfo, RequestMetadata


class RequestRouter(ABC):
    """Chooses an engine."""

    @abstractmethod
    def select_engine(self, request: RequestMetadata, candidates: list[EngineInfo]) -> EngineInfo | None:
        """One of the candidates that accept requests; None: there is none."""


class RoundRobinRouter(RequestRouter):
    """The accepting candidates in turn."""

    def __init__(self) -> None:
        self._next = 0

    def select_engine(self, request: RequestMetadata, candidates: list[EngineInfo]) -> EngineInfo | None:
        accepting = [engine for engine in candidates if engine.is_accepting_requests]
        if not accepting:
            return None
        chosen = accepting[self._next % len(accepting)]
        self._next += 1
        return chosen


class LeastLoadedRouter(RequestRouter):
    """The accepting candidate with the fewest active requests, the first among equals."""

    def select_engine(self, request: RequestMetadata, candidates: list[EngineInfo]) -> EngineInfo | None:
        return least_loaded(candidates)


def least_loaded(candidates: list[EngineInfo]) -> EngineInfo | None:
    """The accepting candidate with the fewest active requests, the first among equals; None: there is none."""
    accepting = (engine for engine in candidates if engine.is_accepting_requests)
    return min(accepting, key=lambda engine: engine.active_requests, default=None)


class LoadBalancer:
    """A router by the name of its strategy.

    Raises:
        ValueError: lists the strategies that exist.
    """

    STRATEGIES: ClassVar[dict[str, Callable[[], RequestRouter]]] = {
        "round_robin": RoundRobinRouter,
        "least_loaded": LeastLoadedRouter,
    }

    def __init__(self, strategy: str = "least_loaded") -> None:
        if strategy not in self.STRATEGIES:
            raise ValueError(f"Unknown strategy: {strategy}. Available: {list(self.STRATEGIES)}")
        self.strategy = strategy
        self._router = self.STRATEGIES[strategy]()

    def route(self, request: RequestMetadata, candidates: list[EngineInfo]) -> EngineInfo | None:
        """One of the candidates that accept requests; None: there is none."""
        return self._router.select_engine(request, candidates)
