"""What a simulated engine can do."""

from __future__ import annotations

from dataclasses import dataclass

from ..wire.engine import EngineRole, EngineSpeed

USUAL_SPEED = EngineSpeed(prefill_tps=20_000.0, step_ms=6.0, step_ms_per_answer=0.5)
"""An 8 B model on a current GPU, prompts of some thousand tokens: steps grow with the KV cache that they read."""


NEVER_FORGETS = 10**12
"""Blocks of a prefix cache without a bound."""


@dataclass(slots=True, frozen=True)
class EngineModel:
    """What an engine can do. The defaults are those that the documentation's tables use."""

    speed: EngineSpeed = USUAL_SPEED
    slots: int = 64
    chunk_tokens: int = 4096
    """Most prompt tokens in an iteration."""
    kv_tokens: int = 512_000
    """Tokens that its KV cache holds for requests that run; 0: no bound."""
    cache_blocks: int = 1000
    """Of prompts, that its prefix cache keeps; 0: it caches nothing."""
    block_tokens: int = 512
    factor: float = 1.0
    """How fast it is against the speed above."""
    role: EngineRole = EngineRole.GENERAL
    transfer_tps: float = 200_000.0
    """Prompt tokens a second whose KV blocks come from another engine: 128 kB each (8 B, grouped heads), 200 Gbit/s."""

    @property
    def true_speed(self) -> EngineSpeed:
        """With the factor."""
        return EngineSpeed(
            self.speed.prefill_tps * self.factor,
            self.speed.step_ms / self.factor,
            self.speed.step_ms_per_answer / self.factor,
        )

    def prefill_ms(self, tokens: int) -> float:
        return tokens / (self.speed.prefill_tps * self.factor) * 1000

    def transfer_ms(self, tokens: int) -> float:
        """Of the KV blocks of a prompt, from the engine that read it."""
        return tokens / self.transfer_tps * 1000

    @property
    def begins(self) -> bool:
        """Whether it takes requests that nobody has begun."""
        return self.role is not EngineRole.DECODE

    @property
    def answers(self) -> bool:
        """Whether it makes the tokens of answers."""
        return self.role is not EngineRole.PREFILL

    def step_ms(self, answers: int) -> float:
        """Of a decode step."""
        return (self.speed.step_ms + answers * self.speed.step_ms_per_answer) / self.factor if answers else 0.0
