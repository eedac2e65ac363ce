"""Arrivals without a trace: Poisson, or bursts. Seeded, and the same on every machine."""

from __future__ import annotations

import math
import random

from .traces import BLOCK_TOKENS, TraceLine

BURST_S = 30.0
"""A burst comes every so often …"""
BURST_SHARE = 0.2
"""… lasts for this part of the time …"""
BURST_FACTOR = 4.0
"""… and then so many times as many come as in between."""

MEAN_PROMPT, MEAN_OUTPUT = 2000.0, 250.0
"""Tokens: between the Azure conversation trace (1,150 and 211) and Mooncake's (12,000 and 343)."""
SPREAD = 1.0
"""Sigma of the lognormal lengths: the p95 is some five times the median, as in both."""
TURNS = 4.0
"""Mean number of requests of a conversation; each repeats what came before as its prompt's beginning."""


def poisson(requests: int, *, seed: int, bursts: bool = False) -> list[TraceLine]:
    """Arrivals at one a second on average (``Workload.at_rate`` sets the rate), with lognormal lengths.

    Args:
        bursts: every ``BURST_S`` mean intervals a burst of ``BURST_FACTOR`` times the rate in between.
    """
    dice = random.Random(seed)
    quiet = 1 / (1 + BURST_SHARE * (BURST_FACTOR - 1))
    at_s = 0.0
    lines: list[TraceLine] = []
    conversations: list[list[str]] = []
    blocks = 0
    for _ in range(requests):
        rate = 1.0
        if bursts:
            rate = quiet * (BURST_FACTOR if at_s % BURST_S < BURST_SHARE * BURST_S else 1.0)
        at_s += -math.log(1.0 - dice.random()) / rate
        prompt = _length(dice, MEAN_PROMPT)
        output = _length(dice, MEAN_OUTPUT)
        if conversations and dice.random() >= 1 / TURNS:
            history = conversations[int(dice.random() * len(conversations))]
        else:
            history = []
            conversations.append(history)
            if len(conversations) > 64:
                del conversations[int(dice.random() * 64)]
        for _ in range(prompt // BLOCK_TOKENS):
            history.append(f"b{blocks}")
            blocks += 1
        prompt = max(prompt, len(history) * BLOCK_TOKENS + prompt % BLOCK_TOKENS)
        lines.append(TraceLine(at_s * 1000, max(1, prompt), output, tuple(history)))
        if len(history) > 64:
            conversations.remove(history)
    return lines


def _length(dice: random.Random, mean: float) -> int:
    # Box-Muller on random() alone: the one method whose sequence Python promises to keep.
    normal = math.sqrt(-2 * math.log(1.0 - dice.random())) * math.cos(2 * math.pi * dice.random())
    return max(1, round(mean * math.exp(SPREAD * normal - SPREAD * SPREAD / 2)))
