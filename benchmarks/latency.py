"""``python -m benchmarks.latency``: what the way gateway → queue → worker adds to the time to first token.

The same simulated engine, which answers at once, is called directly and through the queue by turns within one run:
alone, at a fixed open-loop rate, and at half of what the queue carries.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from .chat import chats
from .client import Exchange, LoadClient
from .figures import Spread, percentile
from .machine import server_facts
from .options import run, shared_flags
from .report import Report, Target
from .system import UNTIMED_ENGINE, Plan, System, running

PERCENTILES = (50, 90, 99)
ADDED_P50_TARGET_MS = 3.0
ADDED_P99_TARGET_MS = 15.0
TOKENS = 10
"""An answer's; the first is timed, the others are the load that a stream is."""
WARM_CONNECTIONS = 64
CAPACITY_AT_ONCE = 32
CAPACITY_S = 3.0


@dataclass(frozen=True)
class Effort:
    """How long is measured."""

    rounds: int
    pairs: int
    """Requests alone, each way, a round."""
    seconds: float
    """Of each rate and way, a round."""
    rate: float
    """Requests/s of the fixed rate."""
    poisson: bool


@dataclass
class Load:
    """Time to first token (ms) under one load: a list of values a round, for each way."""

    name: str
    direct: list[list[float]] = field(default_factory=list[list[float]])
    queue: list[list[float]] = field(default_factory=list[list[float]])
    late_ms: list[float] = field(default_factory=list[float])
    """How much later than planned our own client sent, all requests."""

    def spread(self, way: str, percent: int) -> Spread:
        """Of one percentile over the rounds; ``added`` is the difference within each round."""
        if way == "added":
            pairs = zip(self.queue, self.direct, strict=True)
            return Spread.of([percentile(q, percent) - percentile(d, percent) for q, d in pairs])
        return Spread.of([percentile(values, percent) for values in getattr(self, way)])

    def json(self) -> dict[str, Any]:
        figures = {
            way: {f"p{p}_ms": self.spread(way, p).json() for p in PERCENTILES} for way in ("direct", "queue", "added")
        }
        return {**figures, "requests": sum(map(len, self.queue)), "client_late_p99_ms": percentile(self.late_ms, 99)}


class Latency:
    """The measurement."""

    def __init__(self, system: System, report: Report, effort: Effort, ways: dict[str, LoadClient]) -> None:
        self.system = system
        self.report = report
        self.effort = effort
        self.ways = ways
        self._chats = {way: chats(client.port, TOKENS) for way, client in ways.items()}
        self._random = random.Random(1)

    async def capacity(self) -> float:
        """Requests/s that the queue carries."""
        for client in self.ways.values():
            await client.connect(WARM_CONNECTIONS)
        client = self.ways["queue"]
        await client.closed_loop(self._chats["queue"], at_once=CAPACITY_AT_ONCE, seconds=CAPACITY_S / 2)
        ended = await client.closed_loop(self._chats["queue"], at_once=CAPACITY_AT_ONCE, seconds=CAPACITY_S)
        return len(ended) / CAPACITY_S

    async def alone(self, load: Load) -> None:
        """One round: one request at a time, each way by turns."""
        times: dict[str, list[float]] = {way: [] for way in self.ways}
        for _ in range(self.effort.pairs):
            for way, client in self.ways.items():
                times[way] += self._good(load, way, [await client.one(next(self._chats[way]))])
        load.direct.append(times["direct"])
        load.queue.append(times["queue"])

    async def at_rate(self, load: Load, rate: float, *, queue_first: bool) -> None:
        """One round: open loop, the same schedule each way."""
        offsets = self._schedule(rate)
        for way in ("queue", "direct") if queue_first else ("direct", "queue"):
            sent = [next(self._chats[way]) for _ in offsets]
            exchanges = await self.ways[way].all_at(sent, offsets)
            getattr(load, way).append(self._good(load, way, exchanges))
            load.late_ms += [(e.sent_at - e.due_at) * 1000 for e in exchanges]

    def _schedule(self, rate: float) -> list[float]:
        number = max(1, round(rate * self.effort.seconds))
        if not self.effort.poisson:
            return [i / rate for i in range(number)]
        offsets, at = list[float](), 0.0
        for _ in range(number):
            offsets.append(at)
            at += self._random.expovariate(rate)
        return offsets

    def _good(self, load: Load, way: str, exchanges: Sequence[Exchange]) -> list[float]:
        self.system.check()
        self.report.complaints += [f"{load.name}, {way}: {e.problem}" for e in exchanges if e.problem]
        return [e.ttft_ms for e in exchanges if not e.problem]


async def latency(plan: Plan, report: Report, effort: Effort) -> None:
    """Measure all loads, a round of each by turns."""
    async with running(plan) as system:
        report.server = await server_facts(system.redis_url)
        async with LoadClient(system.engines[0]) as direct, LoadClient(system.gateway) as queued:
            measure = Latency(system, report, effort, {"direct": direct, "queue": queued})
            capacity = await measure.capacity()
            half = capacity / 2
            report.note(
                f"capacity through the queue: {capacity:,.0f} requests/s; {effort.rounds} rounds of {effort.pairs} "
                f"pairs alone and 2 × {effort.seconds:g} s at {effort.rate:g} and at {half:,.0f} requests/s"
            )
            alone, fixed = Load("alone"), Load(f"{effort.rate:g} requests/s")
            halved = Load(f"half of capacity ({half:,.0f} requests/s)")
            for turn in range(effort.rounds):
                await measure.alone(alone)
                await measure.at_rate(fixed, effort.rate, queue_first=turn % 2 == 1)
                await measure.at_rate(halved, half, queue_first=turn % 2 == 1)
        report.complaints += system.complaints()
    report.results = {"capacity_rps": round(capacity, 1)}
    report.results |= {"alone": alone.json(), "fixed_rate": fixed.json(), "half_load": halved.json()}
    for load in (alone, fixed, halved):
        _show(report, load)
    report.targets = [
        Target(f"added p50 at {fixed.name}", fixed.spread("added", 50).median, ADDED_P50_TARGET_MS, True, "ms"),
        Target(f"added p99 at {fixed.name}", fixed.spread("added", 99).median, ADDED_P99_TARGET_MS, True, "ms"),
        Target("answers that were not whole, and warnings", len(report.complaints), 0, True, ""),
    ]


def _show(report: Report, load: Load) -> None:
    rows = [[way, *(load.spread(way, p).shown() for p in PERCENTILES)] for way in ("direct", "queue", "added")]
    late = f"; the client was up to {percentile(load.late_ms, 99):.2f} ms late (p99)" if load.late_ms else ""
    title = f"Time to first token, {load.name}: median (least … most) of the rounds{late}"
    report.table(title, ["ms", *(f"p{p}" for p in PERCENTILES)], rows)


@click.command(help=__doc__)
@shared_flags
@click.option("--rate", default=100.0, show_default=True, help="Fixed rate (requests/s).")
@click.option("--poisson/--fixed", default=True, show_default=True, help="Spacing of the open-loop arrivals.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--pairs", default=200, show_default=True, help="Requests alone, each way, a round.")
@click.option("--seconds", default=5.0, show_default=True, help="Of each rate and way, a round.")
def main(
    json_file: Path | None,
    quick: bool,
    persist: bool,
    server_binary: Path | None,
    rate: float,
    poisson: bool,
    rounds: int,
    pairs: int,
    seconds: float,
) -> None:
    effort = Effort(2, 100, 2.0, rate, poisson) if quick else Effort(rounds, pairs, seconds, rate, poisson)
    report = Report("latency", {**effort.__dict__, "quick": quick})
    plan = Plan(UNTIMED_ENGINE, persist=persist, server_binary=server_binary)
    run(latency(plan, report, effort))
    report.finish(json_file)


if __name__ == "__main__":
    main()
