"""``python -m benchmarks.latency``: what the way gateway → queue → worker adds to the time to first token.

The same simulated engine, which answers at once, is called directly, through the queue, and through a chain of the same
hops with nothing in them (``bare_chain.py``), by turns within one run: alone, at a fixed open-loop rate, and at half of
what the queue carries.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
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
DIRECT, QUEUE, BARE = WAYS = "direct", "queue", "bare chain"
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
    """Time to first token (ms) under one load."""

    name: str
    times: dict[str, list[list[float]]] = field(default_factory=lambda: {way: [] for way in WAYS})
    """Of each way: a list of values a round."""
    late_ms: list[float] = field(default_factory=list[float])
    """How much later than planned our own client sent, all requests."""

    def spread(self, way: str, percent: int) -> Spread:
        """Of one percentile over the rounds."""
        return Spread.of([percentile(values, percent) for values in self.times[way]])

    def added(self, way: str, percent: int) -> Spread:
        """What a way adds to calling the engine directly: the difference of two percentiles, within each round."""
        return Spread.of(self._added(way, percent))

    def to_bare(self, percent: int) -> Spread:
        """What the queue adds in proportion to what the bare chain adds, within each round."""
        pairs = zip(self._added(QUEUE, percent), self._added(BARE, percent), strict=True)
        return Spread.of([queue / bare for queue, bare in pairs])

    def _added(self, way: str, percent: int) -> list[float]:
        pairs = zip(self.times[way], self.times[DIRECT], strict=True)
        return [percentile(values, percent) - percentile(direct, percent) for values, direct in pairs]

    def rows(self) -> list[tuple[str, list[Spread]]]:
        """What is shown: each with one value a percentile."""
        ways = [(way, [self.spread(way, p) for p in PERCENTILES]) for way in WAYS]
        return [*ways, *((f"{way}, added", [self.added(way, p) for p in PERCENTILES]) for way in (QUEUE, BARE))]

    def json(self) -> dict[str, Any]:
        figures = {
            name: {f"p{p}_ms": spread.json() for p, spread in zip(PERCENTILES, spreads, strict=True)}
            for name, spreads in self.rows()
        }
        figures["queue to bare chain, added"] = {f"p{p}": self.to_bare(p).json() for p in PERCENTILES}
        return {
            **figures,
            "requests": sum(map(len, self.times[QUEUE])),
            "client_late_p99_ms": percentile(self.late_ms, 99),
        }


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
        for way, client in self.ways.items():
            await client.connect(WARM_CONNECTIONS)
            await client.closed_loop(self._chats[way], at_once=CAPACITY_AT_ONCE, seconds=CAPACITY_S / 2)
        ended = await self.ways[QUEUE].closed_loop(self._chats[QUEUE], at_once=CAPACITY_AT_ONCE, seconds=CAPACITY_S)
        return len(ended) / CAPACITY_S

    async def alone(self, load: Load) -> None:
        """One round: one request at a time, each way by turns."""
        times: dict[str, list[float]] = {way: [] for way in self.ways}
        for _ in range(self.effort.pairs):
            for way, client in self.ways.items():
                times[way] += self._good(load, way, [await client.one(next(self._chats[way]))])
        for way, values in times.items():
            load.times[way].append(values)

    async def at_rate(self, load: Load, rate: float, *, backwards: bool) -> None:
        """One round: open loop, the same schedule each way."""
        offsets = self._schedule(rate)
        for way in reversed(WAYS) if backwards else WAYS:
            sent = [next(self._chats[way]) for _ in offsets]
            exchanges = await self.ways[way].all_at(sent, offsets)
            load.times[way].append(self._good(load, way, exchanges))
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
        async with AsyncExitStack() as stack:
            ports = {DIRECT: system.engines[0], QUEUE: system.gateway, BARE: system.bare_gateway}
            ways = {way: await stack.enter_async_context(LoadClient(port)) for way, port in ports.items()}
            measure = Latency(system, report, effort, ways)
            capacity = await measure.capacity()
            half = capacity / 2
            report.note(
                f"capacity through the queue: {capacity:,.0f} requests/s; {effort.rounds} rounds, each way: "
                f"{effort.pairs} requests alone, {effort.seconds:g} s at {effort.rate:g} and at {half:,.0f} requests/s"
            )
            alone, fixed = Load("alone"), Load(f"{effort.rate:g} requests/s")
            halved = Load(f"half of capacity ({half:,.0f} requests/s)")
            for turn in range(effort.rounds):
                await measure.alone(alone)
                await measure.at_rate(fixed, effort.rate, backwards=turn % 2 == 1)
                await measure.at_rate(halved, half, backwards=turn % 2 == 1)
        report.complaints += system.complaints()
    report.results = {"capacity_rps": round(capacity, 1)}
    report.results |= {"alone": alone.json(), "fixed_rate": fixed.json(), "half_load": halved.json()}
    for load in (alone, fixed, halved):
        _show(report, load)
    report.targets = [
        Target(f"added p50 at {fixed.name}", fixed.added(QUEUE, 50).median, ADDED_P50_TARGET_MS, True, "ms"),
        Target(f"added p99 at {fixed.name}", fixed.added(QUEUE, 99).median, ADDED_P99_TARGET_MS, True, "ms"),
        Target("answers that were not whole, and warnings", len(report.complaints), 0, True, ""),
    ]


def _show(report: Report, load: Load) -> None:
    rows = [[name, *(spread.shown() for spread in spreads)] for name, spreads in load.rows()]
    rows.append(["queue to bare chain, added", *(f"{load.to_bare(p).shown()} ×" for p in PERCENTILES)])
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
    plan = Plan(UNTIMED_ENGINE, persist=persist, server_binary=server_binary, bare_chain=True)
    run(latency(plan, report, effort))
    report.finish(json_file)


if __name__ == "__main__":
    main()
