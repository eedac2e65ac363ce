"""The controller of one engine's pace."""

from __future__ import annotations

import math

from .objectives import PaceObjectives, Window

AIM = 0.65
"""Part of an objective that is aimed at: answers differ, and all of them are to keep it, not their mean alone. A short
answer that meets one long prompt has a mean far above the engine's."""
FIRST_SHARE = 0.5
"""Part of an engine's time that prefills may take before anything is known of it. On the Mooncake conversation trace
the best lay between 0.5 and 0.65 for an objective of 60 ms, and the load fell off a cliff at 0.7."""
LEAST_SHARE = 0.05
"""Of the engine's prefill speed: the floor. Below it a prompt of 8,000 tokens would hold up the next for 8 s at 20,000
tokens/s, and an engine that is that slow is not helped by waiting longer."""
MOST_SHARE = 10.0
"""Of the prefill speed that was told: the ceiling. Speeds told may be a first guess, so it is a generous one; the
objective is what bounds the pace."""

MEMORY_MS = 4_000.0
"""Over which the measured TPOT is averaged: some ten prefill chunks, so that a single one is no trend."""
PROPORTIONAL = 0.35
"""Of the relative error, each time it changes: damps the slow answer of the batch's size to the pace."""
INTEGRAL_PER_S = 0.06
"""Of the relative error, each second: an engine that is 20 % too slow per token loses 1 % of its pace a second on top.
The batch follows the pace within the length of an answer, some 10 to 20 s; a quicker integral would overtake it."""
MOST_UP_PER_S = 0.15
"""The pace grows by no more than this a second (e-fold in 7 s) …"""
MOST_DOWN_PER_S = 0.35
"""… and falls faster: too much is paid for by every answer that runs, too little only by who waits."""
USED = 0.7
"""A pace of which less was used is not what held anything back: it is not raised, so that a quiet time does not wind it
up for the next burst."""


def prefilling_pace(objectives: PaceObjectives, prefill_tps: float) -> float:
    """Of an engine that only reads prompts (tokens/s): as fast as it reads.

    No answer runs there that a prefill could delay. But what is handed to it early waits in the engine's own line,
    where nothing more urgent can pass.
    """
    return 0.0 if objectives.none else prefill_tps


class PaceController:
    """Learns how many uncached prompt tokens a second may start on an engine while its answers keep their objectives.

    The law, in logarithms (so that it does not matter how fast the engine is), once a window of about a second:

        e     = ln(aim / TPOT), TPOT averaged over ``MEMORY_MS``; with a TTFT objective, the smaller of the two errors
        ln p += PROPORTIONAL · (e - e before) + INTEGRAL_PER_S · e · dt     within -0.35 … +0.15 a second

    a PI controller in velocity form. What it controls: the time per token is (decode step at the batch) / (1 - share
    of the time that prefills take); the share follows the pace at once, and the batch within the length of an answer,
    the same way round, so an integral alone swings. It starts at half of the engine's prefill speed.

    Bounded by 5 % and ten times the prefill speed that is known. An engine that runs nothing takes a request whatever
    the pace (the commit script says so), so there is always progress.

    Args:
        objectives: of the pool; none: the pace is 0, which means "off".
        prefill_tps: the engine's prefill speed (tokens/s) as far as it is known.
    """

    def __init__(self, objectives: PaceObjectives, prefill_tps: float) -> None:
        self.objectives = objectives
        self.prefill_tps = max(prefill_tps, 1.0)
        self._log_pace = math.log(self.prefill_tps * FIRST_SHARE)
        self._error: float | None = None
        self._tokens = 0.0
        self._token_ms = 0.0
        self._used = 0.0
        self._allowed = 0.0
        self._at_ms: float | None = None

    @property
    def pace_tps(self) -> float:
        """Uncached prompt tokens a second that may start; 0: no bound."""
        return 0.0 if self.objectives.none else math.exp(self._log_pace)

    def observe(self, now_ms: float, window: Window, prefill_tps: float | None = None) -> float:
        """Take in what was seen since the last call; the pace from now on.

        Args:
            now_ms: any clock that does not jump.
            prefill_tps: the engine's prefill speed, when it is known better than before: it moves the bounds.
        """
        if prefill_tps:
            self.prefill_tps = max(prefill_tps, 1.0)
        before_ms, self._at_ms = self._at_ms, now_ms
        if before_ms is None or now_ms <= before_ms:
            before_ms = now_ms - 1000.0
        dt_s = min(5.0, (now_ms - before_ms) / 1000)
        fade = math.exp(-dt_s * 1000 / MEMORY_MS)
        self._tokens = self._tokens * fade + window.tokens
        self._token_ms = self._token_ms * fade + window.token_ms
        self._used = self._used * fade + window.started_tokens
        self._allowed = self._allowed * fade + math.exp(self._log_pace) * dt_s
        error = self._error_of(window)
        if error is None:
            self._error = None
        else:
            change = INTEGRAL_PER_S * error * dt_s
            if self._error is not None:
                change += PROPORTIONAL * (error - self._error)
            self._error = error
            if change > 0 and self._used < USED * self._allowed:
                change = 0.0
            self._log_pace += min(MOST_UP_PER_S * dt_s, max(-MOST_DOWN_PER_S * dt_s, change))
        low, high = math.log(self.prefill_tps * LEAST_SHARE), math.log(self.prefill_tps * MOST_SHARE)
        self._log_pace = min(high, max(low, self._log_pace))
        return self.pace_tps

    def _error_of(self, window: Window) -> float | None:
        errors: list[float] = []
        if self.objectives.tpot_ms > 0 and self._tokens >= 1 and self._token_ms > 0:
            errors.append(math.log(AIM * self.objectives.tpot_ms * self._tokens / self._token_ms))
        if self.objectives.ttft_ms > 0 and window.ttft_ms > 0:
            errors.append(math.log(AIM * self.objectives.ttft_ms / window.ttft_ms))
        return min(errors, default=None)
