"""A reference that no real scheduler can reach: it knows output lengths, and every engine's state to the token.

Greedy, not optimal: the shortest that can still make it goes first, to the engine that has the most of it cached, as
soon as that engine can read it without making a running answer miss its objective. What cannot be served in time any
more waits until nobody else does.
"""

from __future__ import annotations

from bisect import insort

from .agenda import Agenda
from .engine import Engine
from .fleet import Fleet
from .job import Job

LOOK_MS = 50.0
"""How often it looks whether running answers can spare more time: about two decode steps."""

MOST_LOOKS = 16
"""Requests at the head that it looks at in one go."""

STRETCH = 10.0
"""By how many times its own prefill a request lets others pass: as ours, which does best with it."""

LATE_MS = 3_600_000.0


class Oracle:
    """Decides with everything that can be known now, and with the output lengths."""

    def __init__(self, agenda: Agenda, fleet: Fleet) -> None:
        self._agenda = agenda
        self._fleet = fleet
        self._waiting: list[tuple[float, int, Job]] = []
        self._late: set[int] = set()
        self._arrivals = 0
        self._looking = False
        self._due = False

    def arrived(self, job: Job) -> None:
        arrival = job.arrival
        self._due = True
        self._arrivals += 1
        prefill_ms = self._fleet.engines[0].model.prefill_ms(arrival.prompt_tokens)
        rank = arrival.arrived_ms + arrival.slo_ms + STRETCH * prefill_ms
        insort(self._waiting, (rank, self._arrivals, job))

    def prefilled(self, job: Job) -> None:
        self.arrived(job)

    def first_token(self, job: Job) -> None: ...

    def finished(self, job: Job) -> None: ...

    def lost(self, engine: Engine, jobs: list[Job]) -> None:
        for job in jobs:
            self.arrived(job)

    def back(self, engine: Engine) -> None:
        self._due = True

    def settle(self, now_ms: float) -> None:
        if not self._waiting or not self._due:
            return
        self._due = False
        spare = {engine.id: self._spare_ms(engine, now_ms) for engine in self._fleet.up}
        open_engines = [engine for engine in self._fleet.up if spare[engine.id] > 0]
        position = looks = 0
        while position < len(self._waiting) and open_engines and looks < MOST_LOOKS:
            rank, number, job = self._waiting[position]
            late = number in self._late
            if not late and not self._can_make_it(job, now_ms):
                del self._waiting[position]
                self._late.add(number)
                insort(self._waiting, (rank + LATE_MS, number, job))
                continue
            if late and position:
                break
            engine = self._choose(job, open_engines, spare, now_ms, late)
            if engine is None:
                position += 1
                looks += 1
                continue
            del self._waiting[position]
            engine.submit(job)
            spare[engine.id] = self._spare_ms(engine, now_ms)
            if spare[engine.id] <= 0:
                open_engines.remove(engine)
        if not self._looking and self._waiting:
            self._looking = True
            self._agenda.at(now_ms + LOOK_MS, self._look)

    def _look(self, now_ms: float) -> None:
        self._looking = False
        self._due = True

    def _can_make_it(self, job: Job, now_ms: float) -> bool:
        arrival = job.arrival
        if not arrival.slo_ms or arrival.stage:
            return True
        left = min(
            engine.model.prefill_ms(_uncached(engine, job)) + _queued_ms(engine) * (engine.load < engine.model.slots)
            for engine in self._fleet.engines
            if engine.model.begins
        )
        return now_ms + left <= arrival.arrived_ms + arrival.slo_ms

    def _choose(
        self, job: Job, engines: list[Engine], spare: dict[str, float], now_ms: float, late: bool
    ) -> Engine | None:
        arrival = job.arrival
        best: Engine | None = None
        best_ms = float("inf")
        for engine in engines:
            if not (engine.model.answers if arrival.stage else engine.model.begins):
                continue
            own_ms = engine.model.prefill_ms(_uncached(engine, job))
            read_ms = _queued_ms(engine) + own_ms
            steps_ms = own_ms / engine.model.prefill_ms(engine.model.chunk_tokens) * engine.model.step_ms(engine.load)
            if own_ms + steps_ms > spare[engine.id] or not engine.has_room(job):
                continue
            if (
                arrival.slo_ms
                and not late
                and not arrival.stage
                and now_ms + read_ms + steps_ms > arrival.arrived_ms + arrival.slo_ms
            ):
                continue
            cost_ms = read_ms + 5.0 * engine.load
            if cost_ms < best_ms:
                best, best_ms = engine, cost_ms
        return best

    @staticmethod
    def _spare_ms(engine: Engine, now_ms: float) -> float:
        """How much longer every running answer that can still keep its time per token may take; inf without any."""
        model = engine.model
        step_ms = model.step_ms(engine.load + 1)
        pending_ms = _queued_ms(engine)
        spare = float("inf")
        for left, job in engine.answers_at(now_ms):
            objective = job.arrival.tpot_slo_ms
            if not objective:
                continue
            allowed = objective * (job.output_tokens - 1) - (now_ms - job.first_token_ms) - left * step_ms
            if 0 <= allowed < spare + pending_ms:
                spare = allowed - pending_ms
        for job in (*engine.prefilling, *engine.waiting):
            if job.arrival.tpot_slo_ms:
                allowed = (job.arrival.tpot_slo_ms - step_ms) * (job.output_tokens - 1)
                if allowed >= 0:
                    spare = min(spare, allowed)
        return spare


def _queued_ms(engine: Engine) -> float:
    return engine.model.prefill_ms(engine.queued_prefill)


def _uncached(engine: Engine, job: Job) -> int:
    if job.blocks_on:
        return 1
    prompt = job.arrival.prompt_tokens
    return max(1, prompt - engine.cache.matched(job.arrival.prefix) * engine.model.block_tokens)
