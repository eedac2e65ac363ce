"""``python -m benchmarks.throughput``: how much one gateway, one scheduler and one worker carry.

Engines cost next to nothing (``free_engine.py``), so what is measured is the control plane; the same client calls the
same engine directly in between, so that the ratio tells what the machine was able to do just then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from .chat import chats
from .client import LoadClient
from .figures import Spread, percentile
from .machine import server_facts
from .options import run, shared_flags
from .report import Report, Target
from .system import UNTIMED_ENGINE, Plan, System, running

SHAPES = {"short answers": 10, "long answers": 100}
"""Tokens an answer."""
SHORT_TARGET_RPS = 700
LONG_TARGET_TPS = 40_000


@dataclass
class Way:
    """The figures of one way to the engine, a value a round."""

    rps: list[float] = field(default_factory=list[float])
    ttft_p50_ms: list[float] = field(default_factory=list[float])
    ttft_p99_ms: list[float] = field(default_factory=list[float])
    cpu_ms: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """CPU time a request, by process."""

    def json(self) -> dict[str, Any]:
        return {
            "requests_per_s": Spread.of(self.rps).json(),
            "ttft_p50_ms": Spread.of(self.ttft_p50_ms).json(),
            "ttft_p99_ms": Spread.of(self.ttft_p99_ms).json(),
            "cpu_ms_per_request": {name: round(Spread.of(v).median, 4) for name, v in self.cpu_ms.items()},
        }


async def measure(system: System, client: LoadClient, tokens: int, at_once: int, seconds: float, way: Way) -> list[str]:
    """One round of one way; what was wrong with answers."""
    system.mark_cpu()
    ended = await client.closed_loop(chats(client.port, tokens), at_once=at_once, seconds=seconds)
    used = system.cpu_since_mark()
    system.check()
    good = [exchange for exchange in ended if not exchange.problem]
    way.rps.append(len(good) / seconds)
    times = [exchange.ttft_ms for exchange in good]
    way.ttft_p50_ms.append(percentile(times, 50))
    way.ttft_p99_ms.append(percentile(times, 99))
    for name, cpu in used.items():
        way.cpu_ms.setdefault(name, []).append(cpu * 1000 / max(1, len(good)))
    return [exchange.problem for exchange in ended if exchange.problem]


async def throughput(plan: Plan, report: Report, *, at_once: int, rounds: int, seconds: float) -> None:
    """Measure every shape, directly and through the queue by turns."""
    async with running(plan) as system:
        report.server = await server_facts(system.redis_url)
        async with LoadClient(system.engines[0]) as direct, LoadClient(system.gateway) as queued:
            for shape, tokens in SHAPES.items():
                report.note(f"{shape}: {tokens} tokens, {at_once} at once, {rounds} rounds of 2 × {seconds:g} s")
                ways = {"direct": Way(), "queue": Way()}
                for client in (direct, queued):
                    await measure(system, client, tokens, at_once, min(1.0, seconds), Way())
                for turn in range(rounds):
                    order = [("direct", direct), ("queue", queued)]
                    for name, client in order if turn % 2 == 0 else reversed(order):
                        problems = await measure(system, client, tokens, at_once, seconds, ways[name])
                        report.complaints += [f"{shape}, {name}: {problem}" for problem in problems]
                _show(report, shape, tokens, ways)
        report.complaints += system.complaints()
    short, long = (report.results[shape]["queue"]["requests_per_s"]["median"] for shape in SHAPES)
    tokens = SHAPES["long answers"]
    report.targets = [
        Target("short answers through the queue", short, SHORT_TARGET_RPS, False, "requests/s"),
        Target("long answers through the queue", long * tokens, LONG_TARGET_TPS, False, "tokens/s"),
        Target("answers that were not whole, and warnings", len(report.complaints), 0, True, ""),
    ]


def _show(report: Report, shape: str, tokens: int, ways: dict[str, Way]) -> None:
    ratio = Spread.of([q / d for q, d in zip(ways["queue"].rps, ways["direct"].rps, strict=True)])
    report.results[shape] = {
        "tokens": tokens,
        **{name: way.json() for name, way in ways.items()},
        "queue_to_direct": ratio.json(),
    }
    rows = [
        [
            name,
            Spread.of(way.rps).shown(0),
            f"{Spread.of(way.rps).median * tokens:,.0f}",
            Spread.of(way.ttft_p50_ms).shown(1),
            Spread.of(way.ttft_p99_ms).shown(1),
        ]
        for name, way in ways.items()
    ]
    rows.append(["queue : direct", ratio.shown(2), "", "", ""])
    title = f"{shape.capitalize()} ({tokens} tokens): median (least … most) of the rounds"
    report.table(title, ["", "requests/s", "tokens/s", "TTFT p50 ms", "TTFT p99 ms"], rows)
    processes = list(ways["queue"].cpu_ms)
    rows = [
        [name, *(f"{Spread.of(way.cpu_ms[process]).median:.3f}" for process in processes)] for name, way in ways.items()
    ]
    report.table("CPU ms a request, by process", ["", *processes], rows)


@click.command(help=__doc__)
@shared_flags
@click.option("--at-once", default=32, show_default=True, help="Requests under way.")
@click.option("--engines", default=1, show_default=True, help="The first is called directly.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=4.0, show_default=True, help="Of each round and way.")
@click.option("--simulated", is_flag=True, help="In front of the simulated engine, which takes its share of the cores.")
def main(
    json_file: Path | None,
    quick: bool,
    persist: bool,
    server_binary: Path | None,
    at_once: int,
    engines: int,
    rounds: int,
    seconds: float,
    simulated: bool,
) -> None:
    if quick:
        rounds, seconds = 2, 2.0
    settings = {"at_once": at_once, "engines": engines, "rounds": rounds, "seconds": seconds, "quick": quick}
    report = Report("throughput", settings | {"engine": "simulated" if simulated else "free"})
    plan = Plan(UNTIMED_ENGINE if simulated else None, engines, persist=persist, server_binary=server_binary)
    run(throughput(plan, report, at_once=at_once, rounds=rounds, seconds=seconds))
    report.finish(json_file)


if __name__ == "__main__":
    main()
