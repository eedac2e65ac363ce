"""An engine as small as one can be that shows why a pace is needed: prefills and decode steps share its time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from sagellm_control.pacing import PaceController, Window


@dataclass
class Answer:
    """A request on the engine."""

    prompt: float
    output: int
    started_ms: float
    prefilled: float = 0.0
    tokens: int = 0
    first_ms: float = 0.0
    last_ms: float = 0.0

    @property
    def tpot_ms(self) -> float:
        return (self.last_ms - self.first_ms) / max(1, self.tokens - 1)


@dataclass
class ToyEngine:
    """Continuous batching: an iteration is a decode step of all answers and a chunk of the first prefill."""

    prefill_tps: float = 20_000.0
    step_ms: float = 15.0
    step_ms_per_answer: float = 0.3
    slots: int = 64
    chunk: float = 4096.0
    now_ms: float = 0.0
    running: list[Answer] = field(default_factory=list[Answer])
    done: list[Answer] = field(default_factory=list[Answer])
    tokens: int = 0
    token_ms: float = 0.0
    ttfts: list[float] = field(default_factory=list[float])

    def start(self, prompt: float, output: int) -> None:
        self.running.append(Answer(prompt, output, self.now_ms))

    def iterate(self, noise: float = 0.0) -> None:
        """One iteration, which takes its time."""
        decoding = [a for a in self.running if a.tokens]
        filling = next((a for a in self.running if not a.tokens), None)
        took = 0.0
        if decoding:
            took += self.step_ms + len(decoding) * self.step_ms_per_answer
        if filling is not None:
            chunk = min(self.chunk, filling.prompt - filling.prefilled)
            filling.prefilled += chunk
            took += chunk * 1000 / self.prefill_tps
        self.now_ms += took * (1 + noise)
        for answer in decoding:
            answer.tokens += 1
            self.tokens += 1
            self.token_ms += self.now_ms - answer.last_ms
            answer.last_ms = self.now_ms
        if filling is not None and filling.prefilled >= filling.prompt:
            filling.tokens = 1
            filling.first_ms = filling.last_ms = self.now_ms
            self.ttfts.append(self.now_ms - filling.started_ms)
        for answer in [a for a in self.running if a.tokens >= a.output]:
            self.running.remove(answer)
            self.done.append(answer)


@dataclass
class Second:
    """What one second of a run looked like."""

    at_s: float
    pace_tps: float
    tpot_ms: float
    running: int
    waiting: int
    started_tokens: float


def drive(
    engine: ToyEngine,
    controller: PaceController | float,
    *,
    seconds: float,
    rate: float | list[tuple[float, float]],
    prompt: float = 8000.0,
    output: int = 340,
    noise: float = 0.0,
    seed: int = 1,
) -> list[Second]:
    """Poisson arrivals at a rate (requests/s; or steps (from s, rate)) wait until the engine's pace lets them start."""
    dice = random.Random(seed)
    steps = rate if isinstance(rate, list) else [(0.0, rate)]
    waiting: list[tuple[float, int]] = []
    found: list[Second] = []
    next_arrival = 0.0
    paced_until = 0.0
    window_started, started_tokens = engine.now_ms, 0.0
    pace = controller if isinstance(controller, float) else controller.pace_tps
    while engine.now_ms < seconds * 1000:
        while next_arrival <= engine.now_ms:
            per_s = [r for at, r in steps if at * 1000 <= next_arrival][-1]
            if per_s > 0:
                waiting.append(
                    (prompt * dice.choice((0.1, 0.4, 0.8, 1.2, 2.5)), max(2, int(dice.expovariate(1 / output))))
                )
            next_arrival += dice.expovariate(per_s) * 1000 if per_s > 0 else 1000.0
        while waiting and len(engine.running) < engine.slots:
            if engine.running and pace > 0 and engine.now_ms < paced_until:
                break
            tokens, length = waiting.pop(0)
            engine.start(tokens, length)
            started_tokens += tokens
            if pace > 0:
                paced_until = max(engine.now_ms, paced_until) + tokens / pace * 1000
        if engine.running:
            engine.iterate(dice.uniform(-noise, noise))
        else:
            engine.now_ms += 10
        if engine.now_ms - window_started >= 1000:
            if not isinstance(controller, float):
                ttft = sum(engine.ttfts) / len(engine.ttfts) if engine.ttfts else 0.0
                window = Window(
                    engine.tokens,
                    engine.token_ms * (1 + dice.uniform(-noise, noise)),
                    started_tokens,
                    ttft,
                    len(engine.running),
                )
                pace = controller.observe(engine.now_ms, window)
            tpot = engine.token_ms / engine.tokens if engine.tokens else 0.0
            found.append(Second(engine.now_ms / 1000, pace, tpot, len(engine.running), len(waiting), started_tokens))
            window_started, started_tokens = engine.now_ms, 0.0
            engine.tokens, engine.token_ms, engine.ttfts = 0, 0.0, []
    return found
