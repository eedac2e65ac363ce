"""What a chaos run consists of: how long, how large, how rough."""

from __future__ import annotations

from dataclasses import dataclass

POOL = "simulated-1"
"""The model of the simulated engines."""
SLOTS = 4
"""Of an engine: fewer in all than there are clients, so that requests wait."""
TPOT_MS = 15
"""Time per token (ms): an answer takes between a tenth of a second and two seconds."""
PREFILL_TOKENS_PER_S = 1000
"""Slow enough that some requests are caught before their first token: those are run again elsewhere."""
MAX_ATTEMPTS = 3
"""With so many failures, or with so many lost workers, a request is given up."""
PREFETCH = 1
"""Requests that a worker holds ready for each engine."""
SHORTEST_ANSWER, LONGEST_ANSWER = 6, 120
"""Tokens."""
LONGEST_PROMPT = 800
"""Words; each is a little more than a token."""


@dataclass(frozen=True)
class ChaosPlan:
    """One run."""

    seconds: float = 60.0
    """For so long the processes are disturbed; what it takes to start and to settle comes on top."""
    seed: int = 0
    """Of all the dice. The same seed asks the same questions and plans the same disturbances; when exactly what meets
    what is up to the machine."""
    gateways: int = 2
    schedulers: int = 3
    workers: int = 4
    engines: int = 4
    clients: int = 16
    """Each asks one question after another."""
    lease_s: float = 5.0
    """Of the workers."""
    every_s: float = 1.5
    """Mean time (s) between two disturbances."""
    settle_s: float = 60.0
    """After the last disturbance everything has to have ended within so long (s)."""
