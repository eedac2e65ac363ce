"""What a pace is to achieve, and what it is judged by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class PaceObjectives:
    """Of a pool; both 0: no pace."""

    tpot_ms: float = 0.0
    """Mean time per output token of each answer."""
    ttft_ms: float = 0.0
    """From the engine's taking a request to its first token; only needed where engines queue by themselves."""

    @property
    def none(self) -> bool:
        """Whether there is nothing to keep."""
        return self.tpot_ms <= 0 and self.ttft_ms <= 0


@dataclass(slots=True, frozen=True)
class Window:
    """What was seen of an engine in a short time, about a second."""

    tokens: int = 0
    """Output tokens after the first of their answer, of all answers together."""
    token_ms: float = 0.0
    """Sum of the times between each of them and the one before it (ms): over ``tokens``, the mean TPOT right now."""
    started_tokens: float = 0.0
    """Uncached prompt tokens of the requests that were started in it."""
    ttft_ms: float = 0.0
    """Mean time (ms) from start to first token of those that had theirs in it; 0: none had."""
    running: int = 0
    """Requests on the engine at its end."""
