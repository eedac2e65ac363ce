"""One engine as a scheduler believes it to be: its row, and what it has in hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..wire.engine import EngineRole, EngineRow
from .forecast import Forecast

TYPICAL_TOKENS = 1000.0
"""Of a request about which nothing is known: the mean prompt of the Azure 2023 conversation trace."""


@dataclass(slots=True, frozen=True)
class EngineRoom:
    """What the store says about the room of one READY engine."""

    free: int
    """Free places."""
    kv_held: float | None = None
    """KV tokens that its reservations may come to; None: not told."""
    paced_until_ms: float | None = None
    """While anything runs on it, it takes nothing before this time; None: not told."""


@dataclass(slots=True)
class EngineLoad:
    """An engine and its load, kept up by ``OpenEngines``."""

    row: EngineRow
    free: int
    places: int = field(init=False)
    """Its row's: kept, as they are asked for with each request."""
    kv_held: float = 0.0
    kv_guessed: bool = False
    """``kv_held`` is a guess, as nobody has told which of its requests have ended."""
    paced_until_ms: float = 0.0
    prefill_until_ms: float = 0.0
    """When it will have prefilled what it was handed, as far as this scheduler knows."""
    open: bool = False
    """It has a place, and its time has come."""
    recent: float = 0.0
    """What it was handed lately, on the scale of ``RecentWork``; 0: not counted yet."""

    def __post_init__(self) -> None:
        self.places = self.row.places

    @property
    def requests(self) -> int:
        """On it, or on their way to it."""
        held = self.places - self.free
        return held if held > 0 else 0  # (for each request seven times: ``max`` takes ten times as long)

    @property
    def kv_free(self) -> float:
        """KV tokens that may still be promised; inf where its budget is not known."""
        return self.row.kv_tokens - self.kv_held if self.row.kv_tokens else math.inf

    def kv_need(self, forecast: Forecast) -> float:
        """KV tokens that a request is promised here: what it may come to, and no more than there are at all (so that
        one that is predicted too large gets an engine of its own, and that engine's honest answer)."""
        need = forecast.prompt_tokens + 1 if self.row.role is EngineRole.PREFILL else forecast.kv_tokens
        return min(need, self.row.kv_tokens) if self.row.kv_tokens else need

    def fits(self, forecast: Forecast) -> bool:
        """Whether its KV budget allows for the request."""
        return not self.row.kv_tokens or self.kv_need(forecast) <= self.row.kv_tokens - self.kv_held

    def is_paced(self, now_ms: float) -> bool:
        """Whether it has to finish prefills before it takes more; an engine that runs nothing never has to."""
        return self.row.pace_tps > 0 and self.paced_until_ms > now_ms and self.requests > 0

    def opens_at_ms(self, now_ms: float) -> float:
        """When it may take a request, as far as its pace goes; inf where it waits for a place, which nobody knows."""
        if self.free <= 0:
            return math.inf
        return self.paced_until_ms if self.is_paced(now_ms) else now_ms

    def step_ms(self, more: int = 0) -> float:
        """What a decode step takes with so many more answers."""
        speed = self.row.speed
        return speed.step_ms + (self.requests + more) * speed.step_ms_per_answer

    def backlog_tokens(self, now_ms: float) -> float:
        """Prompt tokens that it has been handed and not prefilled yet."""
        tokens = (self.prefill_until_ms - now_ms) * self.row.speed.prefill_tps / 1000
        if self.row.pace_tps > 0:
            # What all schedulers have handed to it.
            tokens = max(tokens, (self.paced_until_ms - now_ms) * self.row.pace_tps / 1000)
        return tokens if tokens > 0 else 0.0

    def drain_ms(self) -> float:
        """How long what it holds and one more typical request keep it busy.

        smg's load: (queued + in-flight tokens) / throughput + 0.15 s · k / (1 - k), with k the use of the KV cache, so
        that an engine that is about to preempt looks as slow as it is going to be.
        """
        held = self.kv_held or self.requests * TYPICAL_TOKENS
        use = min(0.99, self.kv_held / self.row.kv_tokens) if self.row.kv_tokens else 0.0
        return (held + TYPICAL_TOKENS) * 1000 / self.row.speed.prefill_tps + 150.0 * use / (1.0 - use)

    def reserve(self, kv_tokens: float, uncached_tokens: float, now_ms: float) -> None:
        """Take in a request: the pace is charged as the commit script does it (GCRA: ITU-T I.371)."""
        self.kv_held += kv_tokens
        row = self.row
        self.prefill_until_ms = max(self.prefill_until_ms, now_ms) + uncached_tokens * 1000 / row.speed.prefill_tps
        if row.pace_tps > 0:
            self.paced_until_ms = max(self.paced_until_ms, now_ms) + uncached_tokens * 1000 / row.pace_tps

    def release(self, kv_tokens: float, uncached_tokens: float) -> None:
        """Undo a ``reserve`` that came to nothing."""
        self.kv_held = max(0.0, self.kv_held - kv_tokens)
        self.prefill_until_ms -= uncached_tokens * 1000 / self.row.speed.prefill_tps
        if self.row.pace_tps > 0:
            self.paced_until_ms -= uncached_tokens * 1000 / self.row.pace_tps


@dataclass(slots=True)
class Reservation:
    """What was taken of an engine for one request."""

    engine: str
    kv_tokens: float = 0.0
    uncached_tokens: float = 0.0
    """Prompt tokens that the engine will have to prefill: what its pace is charged with."""
    prompt_ms: float = 0.0
    """What the engine takes to read the whole prompt."""
    first_token_ms: float = 0.0
    """When (ms since the epoch) its first token is expected: when the engine has prefilled what it was handed."""
    new_blocks: Sequence[str] = ()
    """Of its prompt: those that the engine counts as having since."""

    def prompt_read(self) -> None:
        """Its prompt has been read: what is to be given back is its place and its KV tokens."""
        self.uncached_tokens = self.prompt_ms = 0.0
        self.new_blocks = ()
