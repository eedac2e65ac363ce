"""The model of an engine: continuous batching, iteration by iteration.

An iteration reads up to a chunk of the prompts that have been admitted, first come first served, and makes one token
for every answer that is running. A prompt that has been read whole makes its first token in that iteration. It takes

    prefill tokens / prefill_tps + (step_ms + n × step_ms_per_answer, if n > 0 answers run)

over the engine's speed factor. Iterations that only decode are all alike until an answer ends, so a run of them is one
event of the simulation; what arrives meanwhile joins at the end of the iteration that is under way.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from ..wire.engine import EngineRole
from .agenda import Agenda
from .answers import Answers
from .engine_model import EngineModel
from .engine_totals import EngineTotals
from .job import NEVER, Happening, Job
from .prefix_cache import PrefixCache


class Engine:
    """One engine in a simulation.

    Args:
        told: called with a job to which something has just happened, and what.
    """

    def __init__(
        self,
        engine_id: str,
        model: EngineModel,
        agenda: Agenda,
        *,
        told: Callable[[Job, Happening], None],
    ) -> None:
        self.id = engine_id
        self.model = model
        self.cache = PrefixCache(model.cache_blocks)
        self.waiting: deque[Job] = deque()
        self.prefilling: deque[Job] = deque()
        self.queued_prefill = 0
        """Prompt tokens that it has been given and has not read yet, those that turn out to be cached included."""
        self.kv_held = 0
        self.totals = EngineTotals()
        self.up = True
        self._fetching: dict[str, Job] = {}  # their KV blocks are on their way from the engine that read the prompt
        self._agenda = agenda
        self._told = told
        self._answers = Answers()
        # The run of iterations that is under way: none while _steps is 0.
        self._began_ms = 0.0
        self._steps = 0
        self._step_ms = 0.0
        self._chunk: list[tuple[Job, int]] = []
        self._run = 0

    @property
    def answering(self) -> int:
        """Answers that make tokens."""
        return len(self._answers)

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return len(self._answers) + len(self.prefilling)

    @property
    def load(self) -> int:
        """Requests on it, waiting ones included."""
        return self.running + len(self.waiting) + len(self._fetching)

    @property
    def kv_waiting(self) -> int:
        """KV tokens that those without a slot will need for their prompts."""
        return sum(job.arrival.prompt_tokens for job in (*self.waiting, *self._fetching.values()))

    def decoding(self, now_ms: float) -> tuple[float, int]:
        """Since the start: time (ms) that answers spent between tokens, summed over the answers, and those tokens.

        This is what a worker sees of the time per output token, tokens of answers that have not ended included.
        """
        tokens = self._done(now_ms) * len(self._answers)
        return self.totals.decode_ms + tokens * self._step_ms, self.totals.decoded + tokens

    def answers_at(self, now_ms: float) -> list[tuple[int, Job]]:
        """The answers that make tokens, each with how many it has still to make."""
        return self._answers.to_go(self._done(now_ms))

    def has_room(self, job: Job) -> bool:
        """Whether it has a slot for it, and KV tokens for its prompt and its whole answer."""
        need = job.arrival.prompt_tokens + job.output_tokens
        most = self.model.kv_tokens
        return self.load < self.model.slots and (
            not most or not self.load or self.kv_held + self.kv_waiting + need <= most
        )

    def _done(self, now_ms: float) -> int:
        # Iterations of the run under way that are over.
        if not self._steps or not self._step_ms:
            return 0
        return min(self._steps, int((now_ms - self._began_ms) / self._step_ms + 1e-9))

    def submit(self, job: Job) -> None:
        """Give it a request; for one whose prompt another engine has read, it fetches the KV blocks first."""
        now = self._agenda.now_ms
        job.engine = self.id
        job.attempts += 1
        if not job.arrival.stage:
            job.assigned_ms = now
        if not job.blocks_on:
            self._receive(job, now)
            return
        self._fetching[job.arrival.id] = job

        def fetched(now_ms: float) -> None:
            if self._fetching.get(job.arrival.id) is job:
                del self._fetching[job.arrival.id]
                self._receive(job, now_ms)

        self._agenda.at(now + self.model.transfer_ms(job.arrival.prompt_tokens), fetched)

    def _receive(self, job: Job, now: float) -> None:
        job.prefill_left = 1 if job.blocks_on else job.arrival.prompt_tokens + job.generated
        self.queued_prefill += job.prefill_left
        self.waiting.append(job)
        if not self._steps:
            # Not at once: what else comes at this time goes into the same first iteration.
            self._agenda.at(now, self._start)
        elif self._steps > 1 and not self._chunk and self._may_admit(job):
            self._cut(now)

    def fail(self) -> list[Job]:
        """It is gone, and so is all that it had; returns that."""
        lost = [*self._answers.clear(), *self.prefilling, *self.waiting, *self._fetching.values()]
        for job in lost:
            job.generated = 0
            job.first_token_ms = NEVER
            job.blocks_on = job.arrival.stage = ""
        self._settle_busy(self._agenda.now_ms)
        for everything in (self.waiting, self._fetching, self.prefilling, self._chunk):
            everything.clear()
        self._steps = self.kv_held = self.queued_prefill = 0
        self._run += 1
        self.cache.clear()
        self.up = False
        return lost

    def recover(self) -> None:
        self.up = True

    def _may_admit(self, job: Job) -> bool:
        return self.running < self.model.slots and self._fits(job)

    def _fits(self, job: Job) -> bool:
        most = self.model.kv_tokens
        # One that is larger than the whole cache runs alone: it would never fit. The others need room for a step more,
        # or whoever was preempted would come back at once.
        need = job.arrival.prompt_tokens + job.generated + self.running + 1
        return not most or not self.running or self.kv_held + need <= most

    def _cut(self, now: float) -> None:
        """End the run of decode steps with the one that is under way."""
        steps = max(1, math.ceil((now - self._began_ms) / self._step_ms - 1e-9))
        if steps < self._steps:
            self._steps = steps
            self._schedule()

    def _start(self, now: float) -> None:
        if not self._steps:
            self._iterate(now)

    def _iterate(self, now: float) -> None:
        self._admit()
        answering = len(self._answers)
        if self.prefilling:
            left = self.model.chunk_tokens
            for job in self.prefilling:
                tokens = min(left, job.prefill_left)
                self._chunk.append((job, tokens))
                left -= tokens
                if left <= 0:
                    break
            prefill_ms = self.model.prefill_ms(self.model.chunk_tokens - left)
            self._steps = 1
            self._step_ms = prefill_ms + self.model.step_ms(answering)
        elif answering:
            self._steps = self._answers.steps_to_go
            if self.model.kv_tokens:
                self._steps = max(1, min(self._steps, (self.model.kv_tokens - self.kv_held) // answering))
            self._step_ms = self.model.step_ms(answering)
        else:
            self._steps = 0
            return
        self._began_ms = now
        self._schedule()

    def _schedule(self) -> None:
        self._run = run = self._run + 1
        self._agenda.at(
            self._began_ms + self._steps * self._step_ms, lambda now: self._over(now) if run == self._run else None
        )

    def _admit(self) -> None:
        while self.waiting and self._may_admit(self.waiting[0]):
            job = self.waiting.popleft()
            prompt = job.arrival.prompt_tokens
            matched = self.cache.matched(job.arrival.prefix) * self.model.block_tokens
            # The last token is always read: it makes the first of the answer.
            cached = prompt - 1 if job.blocks_on else min(matched, prompt - 1)
            if not job.generated and not job.blocks_on:
                job.cached_tokens = cached
                self.totals.prompt_tokens += prompt
                self.totals.cached_tokens += cached
            self.queued_prefill -= job.prefill_left
            job.prefill_left = prompt + job.generated - cached
            self.queued_prefill += job.prefill_left
            job.kv_tokens = prompt + job.generated
            self.kv_held += job.kv_tokens
            self.prefilling.append(job)

    def _over(self, now: float) -> None:
        """A run of iterations has ended."""
        steps = self._steps
        self._settle_busy(now)
        self._steps = 0
        self._answers.step += steps
        answering = len(self._answers)
        self.kv_held += steps * answering
        self.totals.generated_tokens += steps * answering
        self.totals.decoded += steps * answering
        self.totals.decode_ms += steps * answering * self._step_ms
        for job in self._answers.pop_whole():
            self._finish(job, now)
        for job, tokens in self._chunk:
            job.prefill_left -= tokens
            self.queued_prefill -= tokens
            if not job.prefill_left:
                self.prefilling.popleft()
                self._begin(job, now)
        self._chunk.clear()
        if self.model.kv_tokens:
            self._preempt()
        self._iterate(now)

    def _settle_busy(self, now: float) -> None:
        if self._steps:
            self.totals.busy_ms += now - self._began_ms

    def _begin(self, job: Job, now: float) -> None:
        """Its prompt has been read: the first token, or the next one after a preemption, or the end of its stage."""
        self.cache.use(job.arrival.prefix)
        if self.model.role is EngineRole.PREFILL:
            self.kv_held -= job.kv_tokens
            job.blocks_on = self.id
            self._told(job, Happening.PREFILLED)
            return
        job.blocks_on = ""  # a preempted one is read again
        self.totals.generated_tokens += 1
        self.kv_held += 1
        job.started_step = self._answers.step
        if not job.generated:
            job.first_token_ms = now
            self._told(job, Happening.FIRST_TOKEN)
        left = job.output_tokens - job.generated - 1
        if left <= 0:
            self._finish(job, now)
            return
        self._answers.add(job, left)

    def _finish(self, job: Job, now: float) -> None:
        self.kv_held -= self._holds(job)
        job.finished_ms = now
        self._told(job, Happening.FINISHED)

    def _holds(self, job: Job) -> int:
        return job.kv_tokens + 1 + self._answers.step - job.started_step

    def _preempt(self) -> None:
        """Take the slot from those that came last until the next step fits; they are read again, answer and all."""
        while self.running > 1 and self._answers and self.kv_held + self.answering > self.model.kv_tokens:
            if self.prefilling:
                job = self.prefilling.pop()
                self.kv_held -= job.kv_tokens
                self.queued_prefill -= job.prefill_left
            else:
                job, left = self._answers.pop_last()
                self.kv_held -= self._holds(job)
                job.generated = job.output_tokens - left
            job.preempted += 1
            self.totals.preemptions += 1
            job.prefill_left = job.arrival.prompt_tokens + job.generated
            self.queued_prefill += job.prefill_left
            self.waiting.appendleft(job)
