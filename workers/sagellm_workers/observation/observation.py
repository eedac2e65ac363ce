"""What a worker sees of its engine while it serves: how fast it prefills, decodes and answers."""

from __future__ import annotations

import math
import time

from sagellm_control.pacing import Window
from sagellm_control.wire.engine import EngineSpeed

SPEED_MEMORY = 0.2
"""Weight of a new measurement of the prefill speed: it follows a change within some ten of them."""
BUSY_MEMORY = 0.1
"""The same for what an engine showed that did other things as well, as long as there is nothing better."""
LEAST_PROMPT_TOKENS = 64
"""Of a prompt that tells anything about the prefill speed; the time of a shorter one is that of the first step."""
STEP_FADE_S = 60.0
"""Over which the decode steps are remembered: long enough to have seen several sizes of the batch."""
PRIOR_WEIGHT_S = 2.0
"""So many seconds of steps the assumed speed counts for at first."""
PRIOR_BATCHES = (1.0, 32.0)
STALL_S = 5.0
"""A gap below this is part of the work: the prompts of others take so long."""
STALL_STEPS = 5.0
"""A longer one is a stall if it is so many times as long as its tokens should have taken, and no other follows."""


class _StepTimes:
    """Least squares of step time (ms) over answers that run, older measurements fading."""

    def __init__(self, prior: EngineSpeed) -> None:
        self._sums = [0.0] * 5  # weight, x, y, xx, xy
        self._last = prior
        for batch in PRIOR_BATCHES:
            self._add(batch, prior.step_ms + batch * prior.step_ms_per_answer, PRIOR_WEIGHT_S / len(PRIOR_BATCHES))

    def measured(self, batch: float, step_ms: float, dt_s: float) -> None:
        """In the last ``dt_s`` so many answers ran, and a token took so long."""
        fade = math.exp(-dt_s / STEP_FADE_S)
        self._sums = [part * fade for part in self._sums]
        self._add(batch, step_ms, dt_s)

    def _add(self, batch: float, step_ms: float, weight: float) -> None:
        parts = (1.0, batch, step_ms, batch * batch, batch * step_ms)
        self._sums = [part + weight * new for part, new in zip(self._sums, parts, strict=True)]

    def line(self) -> tuple[float, float]:
        """Intercept and slope, neither below 0."""
        weight, x, y, xx, xy = self._sums
        mean_x, mean_y = x / weight, y / weight
        spread = xx / weight - mean_x * mean_x
        slope = (xy / weight - mean_x * mean_y) / spread if spread > 1e-6 else 0.0
        slope = min(max(0.0, slope), mean_y / max(mean_x, 1.0))
        return mean_y - slope * mean_x, slope


class EngineObservation:
    """One engine. Attempts tell it what they see; each renewal of the lease takes what came together since the last."""

    def __init__(self, speed: EngineSpeed | None = None) -> None:
        self._speed = speed or EngineSpeed()
        self._prefill_tps = self._speed.prefill_tps
        self._prefills = 0
        self._steps = _StepTimes(self._speed)
        self._measured = False
        """Anything is known of the step times."""
        self._stalls: list[tuple[int, float]] = []
        """Tokens that took strangely long, until it is known whether the engine stood still or is so slow now."""
        self.running = 0
        """Attempts that the engine has been given and has not answered in full."""
        self._since = time.monotonic()
        self._answers_s = 0.0
        self._counted_at = self._since
        self._clear()

    def _clear(self) -> None:
        self._tokens = 0
        self._token_ms = 0.0
        self._started_tokens = 0.0
        self._first_tokens = 0
        self._first_ms = 0.0
        self._answers_s = 0.0

    def started(self, uncached_tokens: float) -> None:
        """The engine is being called with so many prompt tokens that it has to compute."""
        self._count_answers()
        self.running += 1
        self._started_tokens += uncached_tokens

    def first(self, after_s: float) -> None:
        """A first token came so long after the call."""
        self._first_tokens += 1
        self._first_ms += after_s * 1000

    def tokens(self, number: int, after_s: float) -> None:
        """So many more tokens of an answer came, so long after the ones before.

        An engine that stands still makes no steps: one gap for each answer, and behind it they come as ever.
        """
        self._stalls.append((number, after_s))
        if not self._is_long(number, after_s):
            del self._stalls[:-1]
        elif len(self._stalls) <= max(1, self.running):
            return
        for tokens, gap_s in self._stalls:
            self._tokens += tokens
            self._token_ms += gap_s * 1000
        self._stalls.clear()

    def _is_long(self, number: int, after_s: float) -> bool:
        if not self._measured or after_s <= STALL_S:
            return False
        step_ms, answer_ms = self._steps.line()
        return after_s * 1000 > STALL_STEPS * number * (step_ms + max(1, self.running) * answer_ms)

    def ended(self) -> None:
        """An answer has ended, in whichever way."""
        self._count_answers()
        self.running -= 1

    def predicted_first_s(self, uncached_tokens: float) -> float | None:
        """When the first token of such a prompt is expected, from the call on; None: nothing has been measured."""
        if not self._prefills:
            return None
        return uncached_tokens / self._prefill_tps + self._steps.line()[0] / 1000

    def prefilled(self, uncached_tokens: float, first_s: float, *, alone: bool) -> None:
        """A prompt was computed within this time, by an engine that ran nothing else from start to first token, or
        (``alone`` is false) did other things as well: then it is at least that fast."""
        if uncached_tokens < LEAST_PROMPT_TOKENS:
            return
        step_s = self._steps.line()[0] / 1000
        speed = uncached_tokens / max(first_s - step_s, 1e-4)
        if not self._prefills and alone:
            self._prefill_tps = speed
        elif alone or speed > self._prefill_tps:
            # On a log scale: half as fast and twice as fast are as far away.
            self._prefill_tps *= (speed / self._prefill_tps) ** SPEED_MEMORY
        elif not self._prefills:
            # Too low, but a guess is worth even less; an engine that is never alone is never measured otherwise.
            self._prefill_tps *= (speed / self._prefill_tps) ** BUSY_MEMORY
        self._prefills += alone

    def speed(self) -> EngineSpeed:
        """As far as it is known."""
        intercept, slope = self._steps.line()
        return EngineSpeed(self._prefill_tps, max(intercept, 0.0), slope)

    @property
    def prefill_tps(self) -> float | None:
        """Measured prompt tokens/s; None: nothing has been measured."""
        return self._prefill_tps if self._prefills else None

    def window(self) -> Window:
        """What was seen since the last call, which is also taken in by the step times."""
        self._count_answers()
        now = time.monotonic()
        elapsed_s = max(now - self._since, 1e-6)
        self._since = now
        window = Window(
            tokens=self._tokens,
            token_ms=self._token_ms,
            started_tokens=self._started_tokens,
            ttft_ms=self._first_ms / self._first_tokens if self._first_tokens else 0.0,
            running=self.running,
        )
        if self._tokens:
            self._measured = True
            self._steps.measured(max(1.0, self._answers_s / elapsed_s), self._token_ms / self._tokens, elapsed_s)
        self._clear()
        return window

    def _count_answers(self) -> None:
        now = time.monotonic()
        self._answers_s += self.running * (now - self._counted_at)
        self._counted_at = now
