"""Continuous batching: one loop, and every turn of it is one iteration of the simulated model.

An iteration reads a chunk of the prompts that were admitted and makes one token for every answer that is
running. A prompt that has been read whole makes its first token in the same iteration, as real engines do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from .clock import Clock, MonotonicClock

_log = logging.getLogger(__name__)

# The loop keeps its own time line, so that timers that fire late do not slow the simulated engine down. When
# the process itself cannot keep up, this is how much of the delay it tries to make good.
MAX_CATCH_UP_S = 0.1


@dataclass(slots=True, eq=False)
class Work:
    """One answer in the making: `prompt_tokens` to read, then `length` tokens, each told to `emit`."""

    prompt_tokens: int
    length: int
    emit: Callable[[int], None] | None = None
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    prefill_left: int = 0
    emitted: int = 0
    submitted_at: float = 0.0
    first_token_at: float = 0.0
    finished_at: float = 0.0


@dataclass(frozen=True, slots=True)
class IterationCost:
    """What an iteration costs; see SimulatedEngineSettings for the fields. All zero: it never sleeps."""

    prefill_tokens_per_s: float
    prefill_chunk_tokens: int
    tpot_ms: float
    tpot_per_running_ms: float

    def seconds(self, prefill_tokens: int, decoding: int) -> float:
        cost = prefill_tokens / self.prefill_tokens_per_s if self.prefill_tokens_per_s else 0.0
        if decoding:
            cost += (self.tpot_ms + self.tpot_per_running_ms * (decoding - 1)) / 1000
        return cost


class Batcher:
    """`slots` answers run at once, the others wait in the order they came."""

    def __init__(self, slots: int, cost: IterationCost, clock: Clock | None = None) -> None:
        self.slots = slots
        self.peak_running = 0
        self.generated_tokens = 0
        self._cost = cost
        self._clock = clock or MonotonicClock()
        # Dicts serve as ordered sets: what is aborted leaves them in constant time.
        self._waiting: dict[Work, None] = {}
        self._prefilling: dict[Work, None] = {}
        self._decoding: dict[Work, None] = {}
        self._arrived = asyncio.Event()
        self._stopped = False

    @property
    def running(self) -> int:
        return len(self._prefilling) + len(self._decoding)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, work: Work) -> None:
        """Queue a piece of work; its `done` is set when its last token was emitted."""
        if self._stopped:
            work.done.cancel()
            return
        work.prefill_left = work.prompt_tokens
        work.submitted_at = self._clock.now()
        self._waiting[work] = None
        self._arrived.set()

    def abort(self, work: Work) -> None:
        """Forget it wherever it is and free its slot at once; one that is over is left alone."""
        for place in (self._waiting, self._prefilling, self._decoding):
            place.pop(work, None)
        work.done.cancel()

    async def run(self) -> None:
        """Iterate until cancelled; then the work that is left is cancelled too."""
        try:
            await self._iterate()
        except Exception:
            _log.exception("the batching loop failed; this engine answers nothing from now on")
            raise
        finally:
            self._stopped = True
            for work in (*self._waiting, *self._prefilling, *self._decoding):
                self.abort(work)

    async def _iterate(self) -> None:
        clock = self._clock
        time_line = clock.now()
        while True:
            if not (self._waiting or self._prefilling or self._decoding):
                self._arrived.clear()
                await self._arrived.wait()
                time_line = clock.now()
            self._admit()
            decoding = len(self._decoding)
            duration = self._cost.seconds(self._prefill(), decoding)
            if duration:
                time_line = max(time_line, clock.now() - MAX_CATCH_UP_S) + duration
                await clock.sleep_until(time_line)
            else:
                # Nothing costs: still let the event loop send this token before the next one is made.
                time_line = clock.now()
                await asyncio.sleep(0)
            self._decode()

    def _admit(self) -> None:
        free = self.slots - self.running
        while free > 0 and self._waiting:
            work = next(iter(self._waiting))
            del self._waiting[work]
            self._prefilling[work] = None
            free -= 1
        self.peak_running = max(self.peak_running, self.running)

    def _prefill(self) -> int:
        """Read the next chunk of prompts, first come first served; return how many tokens it has."""
        if not self._prefilling:
            return 0
        budget = self._cost.prefill_chunk_tokens
        if not self._cost.prefill_tokens_per_s:
            self._decoding.update(self._prefilling)
            self._prefilling.clear()
            return 0
        left = budget
        for work in list(self._prefilling):
            read = min(left, work.prefill_left)
            work.prefill_left -= read
            left -= read
            if work.prefill_left:
                break
            del self._prefilling[work]
            self._decoding[work] = None
        return budget - left

    def _decode(self) -> None:
        """One token for each answer whose prompt has been read."""
        finished: list[Work] = []
        made = 0
        for work in self._decoding:
            index = work.emitted
            if index < work.length:
                work.emitted = index + 1
                made += 1
                if index == 0:
                    work.first_token_at = self._clock.now()
                if work.emit is not None:
                    work.emit(index)
            if work.emitted >= work.length:
                finished.append(work)
        self.generated_tokens += made
        if finished:
            now = self._clock.now()
            for work in finished:
                del self._decoding[work]
                work.finished_at = now
                if not work.done.done():
                    work.done.set_result(None)
