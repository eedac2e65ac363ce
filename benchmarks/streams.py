"""``python -m benchmarks.streams``: many open streams at once on one gateway, with slow tokens.

All streams are opened within the ramp and stay open together; each must come to its end whole.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from .chat import chats
from .client import Exchange, LoadClient
from .figures import percentile
from .machine import server_facts
from .options import run, shared_flags
from .process import memory_mb
from .report import Report, Target
from .system import Plan, System, running

SPARE_SLOTS = 16
SPARE_FILES = 200
"""File descriptors that the client needs beside its connections."""
WATCHED = ("gateway", "worker", "engine", "scheduler")


@dataclass(frozen=True)
class Load:
    """What is opened."""

    streams: int
    tokens: int
    tpot_ms: float
    ramp_s: float

    @property
    def stays_open_s(self) -> float:
        """How long one stream lasts, about."""
        return self.tokens * self.tpot_ms / 1000


async def streams(plan: Plan, report: Report, load: Load) -> None:
    """Open them all, and wait for their ends."""
    async with running(plan) as system:
        report.server = await server_facts(system.redis_url)
        # After the processes have been started: they have to raise their own limits.
        _allow_files(load.streams + SPARE_FILES)
        report.note(
            f"{load.streams:,} streams opened within {load.ramp_s:g} s, {load.tokens} tokens each, one in "
            f"{load.tpot_ms:g} ms: {load.streams * 1000 / load.tpot_ms:,.0f} tokens/s while all are open"
        )
        before = {name: memory_mb(system.processes[name].pid)[0] for name in WATCHED}
        async with LoadClient(system.gateway) as client:
            # One request first, so that what a process loads at its first request is not counted for the streams.
            await client.one(next(chats(system.gateway, 1)))
            offered = chats(system.gateway, load.tokens)
            offsets = [i * load.ramp_s / load.streams for i in range(load.streams)]
            system.mark_cpu()
            began = time.monotonic()
            exchanges = await client.all_at([next(offered) for _ in offsets], offsets)
            seconds = time.monotonic() - began
            cpu = system.cpu_since_mark()
            peaks = {name: memory_mb(system.processes[name].pid)[1] for name in WATCHED}
            await asyncio.sleep(1.0)
            after = {name: memory_mb(system.processes[name].pid)[0] for name in WATCHED}
        report.complaints += system.complaints()
        _tell(report, system, load, exchanges, seconds)
    rows = [
        [
            name,
            f"{before[name]:.0f}",
            f"{peaks[name]:.0f}",
            f"{after[name]:.0f}",
            f"{(peaks[name] - before[name]) * 1024 / load.streams:.1f}",
            f"{cpu[name] / seconds:.0%}",
        ]
        for name in WATCHED
    ]
    report.table(
        "Memory (MiB) and CPU", ["", "before", "peak", "1 s after", "KiB a stream at the peak", "of one core"], rows
    )
    report.results |= {"memory_mb": {"before": before, "peak": peaks, "after": after}, "cpu_s": cpu}


def _tell(report: Report, system: System, load: Load, exchanges: Sequence[Exchange], seconds: float) -> None:
    good = [exchange for exchange in exchanges if not exchange.problem]
    problems = Counter(exchange.problem for exchange in exchanges if exchange.problem)
    report.complaints += [f"{number} streams: {problem}" for problem, number in problems.most_common()]
    ttft = [exchange.ttft_ms for exchange in good]
    open_s = [exchange.done_at - exchange.first_at for exchange in good]
    most_open = _most_open(exchanges)
    rate = len(good) * load.tokens / seconds
    report.table(
        "Streams",
        ["opened", "whole", "open at once", "TTFT p50 ms", "TTFT p99 ms", "open s p50", "open s p99", "tokens/s"],
        [
            [
                f"{len(exchanges):,}",
                f"{len(good):,}",
                f"{most_open:,}",
                f"{percentile(ttft, 50):.1f}",
                f"{percentile(ttft, 99):.1f}",
                f"{percentile(open_s, 50):.2f}",
                f"{percentile(open_s, 99):.2f}",
                f"{rate:,.0f}",
            ]
        ],
    )
    report.results = {
        "whole": len(good),
        "problems": dict(problems),
        "open_at_once": most_open,
        "ttft_p50_ms": percentile(ttft, 50),
        "ttft_p99_ms": percentile(ttft, 99),
        "open_s_p50": percentile(open_s, 50),
        "open_s_p99": percentile(open_s, 99),
        "seconds": seconds,
        "tokens_per_s": rate,
    }
    report.targets = [
        Target("streams open at once", most_open, load.streams, False, ""),
        Target("streams that were not whole", len(exchanges) - len(good), 0, True, ""),
    ]


def _most_open(exchanges: Sequence[Exchange]) -> int:
    """Most streams that had begun and not ended at one moment."""
    changes = sorted(
        [(e.first_at, 1) for e in exchanges if e.first_at and e.done_at]
        + [(e.done_at, -1) for e in exchanges if e.first_at and e.done_at]
    )
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _allow_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@click.command(help=__doc__)
@shared_flags
@click.option("--streams", "number", default=2000, show_default=True, help="Streams open at once.")
@click.option("--tokens", default=30, show_default=True, help="Tokens of each answer.")
@click.option("--tpot-ms", default=500.0, show_default=True, help="Time between two tokens of a stream.")
@click.option("--ramp", "ramp_s", default=5.0, show_default=True, help="Time (s) within which all are opened.")
def main(
    json_file: Path | None,
    quick: bool,
    persist: bool,
    server_binary: Path | None,
    number: int,
    tokens: int,
    tpot_ms: float,
    ramp_s: float,
) -> None:
    load = Load(number, 16, tpot_ms, 3.0) if quick else Load(number, tokens, tpot_ms, ramp_s)
    if load.stays_open_s <= load.ramp_s:
        raise click.UsageError("tokens × tpot-ms must be longer than the ramp, or the streams are not open together")
    report = Report("streams", {**asdict(load), "quick": quick})
    slots = str(load.streams + SPARE_SLOTS)
    engine = ("--prefill-tokens-per-s", "0", "--tpot-ms", str(tpot_ms), "--tpot-per-running-ms", "0", "--slots", slots)
    run(streams(Plan(engine, persist=persist, server_binary=server_binary), report, load))
    report.finish(json_file)


if __name__ == "__main__":
    main()
