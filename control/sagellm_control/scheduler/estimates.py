"""What to expect of a request, learned from those that have run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..wire.engine import EngineSpeed
from ..wire.request import Arrival
from ..wire.states import RequestKind
from .engine_load import EngineLoad
from .forecast import Forecast

PRIOR_TOKENS = 256.0
"""Output of a request about which nothing is known: between the means of the Azure 2023 conversation trace (211) and
of the Mooncake conversation trace (343)."""
MOST_WEIGHT = 64.0
"""Requests that a mean remembers, roughly: it follows a change of habit within some 64 answers."""
ENOUGH = 8.0
"""So many requests of its own make a narrow mean count as much as the wider one behind it."""
MOST_MEANS = 20_000
"""Means kept; the ones unused longest are forgotten. A name and two numbers each."""
SEPARATOR = "\x1f"
"""Between the parts of a mean's name: a character that no model and no tenant has in its name."""


@dataclass(slots=True)
class LengthMean:
    """Mean output (tokens) of one kind of request, recent ones counting more."""

    weight: float = 0.0
    """How many requests it rests on, up to ``MOST_WEIGHT``."""
    tokens: float = 0.0

    def settle(self, tokens: float) -> None:
        """One more answer. The rule is as simple as it is so that a script can repeat it."""
        self.weight = min(self.weight + 1.0, MOST_WEIGHT)
        self.tokens += (tokens - self.tokens) / self.weight

    def text(self) -> str:
        """As it is stored: weight and tokens."""
        return f"{self.weight:.6g} {self.tokens:.6g}"


def read_length_mean(text: str) -> LengthMean | None:
    """Read what ``text`` wrote; None for anything else."""
    try:
        weight, tokens = map(float, text.split())
    except ValueError:
        return None
    if not (0 < weight <= MOST_WEIGHT and 0 <= tokens < 1e9):
        return None
    return LengthMean(weight, tokens)


def bucket_of(max_tokens: int) -> int:
    """Requests that allow about as much: 0 where the client did not say, else the number of binary digits."""
    return max_tokens.bit_length()


def names_of(model: str, tenant: str, max_tokens: int) -> tuple[str, str, str]:
    """Fields of the means that a request belongs to, the narrowest first: (model, tenant, bucket), (model, bucket),
    (model). A finish settles all three."""
    bucket = str(bucket_of(max_tokens))
    return (SEPARATOR.join((model, bucket, tenant)), SEPARATOR.join((model, bucket)), model)


class Estimates:
    """Makes the forecasts of a pool.

    The output is a mean of means: each level is trusted by how many requests it rests on, and falls back on the wider
    one as far as it is not (empirical Bayes shrinkage; ``ENOUGH`` is the prior's weight):

        expected = (n · mean + 8 · expected of the wider) / (n + 8)        prior → model → bucket → tenant

    and never more than the client allows. Times are those of a typical engine of the pool: prefill at its speed with
    nothing else running, decode at the batch that is usual now.
    """

    def __init__(self) -> None:
        self._means: dict[str, LengthMean] = {}
        self._stored: Mapping[bytes, bytes] = {}
        """As they came, each read when it is asked for: of very many only a few are."""
        self.speed = EngineSpeed()
        """Of a typical engine."""
        self.batch = 1.0
        """Requests that usually run on an engine."""
        self.engines = 1
        """READY ones; 1 while there are none."""

    def forecast(self, request: Arrival) -> Forecast:
        """What to expect of the request."""
        output = 0.0
        if request.kind != RequestKind.EMBEDDING:
            output = self.output_tokens(request.model, request.tenant, request.max_tokens)
        step_ms = self.speed.step_ms + self.batch * self.speed.step_ms_per_answer
        return Forecast(
            request.prompt_tokens,
            output,
            request.prompt_tokens * 1000 / self.speed.prefill_tps,
            output * step_ms,
            self.engines,
        )

    def output_tokens(self, model: str, tenant: str, max_tokens: int) -> float:
        """Expected output of such a request."""
        expected = PRIOR_TOKENS
        if not self._means and not self._stored:
            return min(expected, max_tokens) if max_tokens else expected
        for name in reversed(names_of(model, tenant, max_tokens)):
            mean = self._mean(name)
            if mean is not None:
                expected = (mean.weight * mean.tokens + ENOUGH * expected) / (mean.weight + ENOUGH)
        return min(expected, max_tokens) if max_tokens else expected

    def settle(self, model: str, tenant: str, max_tokens: int, output_tokens: float) -> dict[str, str]:
        """One more answer has ended; the stored form of what it changed."""
        changed: dict[str, str] = {}
        for name in names_of(model, tenant, max_tokens):
            mean = self._mean(name) or LengthMean()
            mean.settle(output_tokens)
            self._means.pop(name, None)
            self._means[name] = mean  # at the end: used last
            changed[name] = mean.text()
        while len(self._means) > MOST_MEANS:
            del self._means[next(iter(self._means))]
        return changed

    def learn(self, stored: Mapping[bytes, bytes]) -> None:
        """Take over the means that are stored for the pool, in place of those known; what cannot be read is none."""
        self._stored = stored
        self._means.clear()

    def _mean(self, name: str) -> LengthMean | None:
        mean = self._means.get(name)
        if mean is None and (text := self._stored.get(name.encode(errors="surrogateescape"))) is not None:
            mean = read_length_mean(text.decode(errors="replace"))
            if mean is not None:
                self._means[name] = mean
        return mean

    def learn_loads(self, loads: Iterable[EngineLoad]) -> None:
        """Take over the speeds and the batches of the READY engines; idle ones say nothing of the usual batch."""
        known = list(loads)
        busy = [load.requests for load in known if load.requests]
        self.learn_speed((load.row.speed for load in known), sum(busy) / max(1, len(busy)))

    def learn_speed(self, speeds: Iterable[EngineSpeed], batch: float) -> None:
        """Take over how fast the engines are now, and how many requests usually run on one."""
        known = list(speeds)
        self.engines = max(1, len(known))
        if known:
            self.speed = EngineSpeed(
                prefill_tps=sum(s.prefill_tps for s in known) / len(known),
                step_ms=sum(s.step_ms for s in known) / len(known),
                step_ms_per_answer=sum(s.step_ms_per_answer for s in known) / len(known),
            )
        self.batch = max(1.0, batch)
