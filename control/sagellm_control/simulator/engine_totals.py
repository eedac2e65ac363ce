"""What a simulated engine has done, in sums."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class EngineTotals:
    """Since the start of the run."""

    busy_ms: float = 0.0
    prompt_tokens: int = 0
    """Of the prompts that it has read, cached ones included."""
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    decode_ms: float = 0.0
    """That answers spent between two tokens, summed over the answers …"""
    decoded: int = 0
    """… and those tokens."""
