"""``python -m benchmarks.scheduling``: how many requests one scheduler process moves from intake to engines.

With 1 to 2000 engines and up to a million requests that wait, beside the raw rate of the server and the no-op jobs of
other queues. The engines are rows that nobody serves: what is measured ends where a worker would begin.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from ..options import run, shared_flags
from ..report import Report, Target
from .measurement import Effort, Measurement

RATE_TARGET = 15_000
PEER_RATIO_TARGET = 5
COST_RATIO_TARGET = 1.5
BYTES_TARGET = 1024
QUICK = Effort(engines=(1, 2000), waiting=(0, 10_000), requests=5_000, rounds=1, jobs=3_000)
JOBS = 10_000
"""A few seconds for each peer."""


async def scheduling(measure: Measurement, venvs: Path | None) -> None:
    """All cases, and what they are to reach."""
    effort = measure.effort
    fastest_peer = await measure.peers(venvs) if venvs else None
    to_peer = await measure.to_peer(fastest_peer, venvs) if venvs and fastest_peer else None
    rates, costs = await measure.direct()
    await measure.past_blocked()
    queued = await measure.queued()
    least, most = effort.engines[0], effort.engines[-1]
    first, last = effort.waiting[0], effort.waiting[-1]
    slowest = min(rate.median for rate in rates.values())
    breadth = max(cost.median for cost in costs.values())
    depth = max(queued[last][engines].us / queued[first][engines].us for engines in effort.engines)
    filled = measure.report.results["filled"].values()
    targets = [
        Target("direct, by the slowest row", slowest, RATE_TARGET, False, "requests/s"),
        Target(f"direct, a request's cost from {least} to {most:,} engines", breadth, COST_RATIO_TARGET, True, "×"),
        Target(f"queued, a request's cost: {last:,} waiting to {first:,}", depth, COST_RATIO_TARGET, True, "×"),
    ]
    if filled:
        memory = max(fill["bytes_each"] for fill in filled)
        targets.append(Target("memory of a waiting request beside its body", memory, BYTES_TARGET, True, "bytes"))
    if to_peer:
        targets.append(Target("direct, to the fastest peer", to_peer.median, PEER_RATIO_TARGET, False, "×"))
    measure.report.targets = targets


def _numbers(_: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise click.BadParameter("whole numbers with commas between them", param=parameter) from None


@click.command(help=__doc__)
@shared_flags
@click.option("--engines", default="1,8,64,512,2000", show_default=True, callback=_numbers)
@click.option("--waiting", default="0,10000,1000000", show_default=True, callback=_numbers, help="Backlogs.")
@click.option("--requests", default=20_000, show_default=True, help="Requests moved in each case.")
@click.option("--rounds", default=5, show_default=True, help="Of the direct case, and of it beside a peer.")
@click.option("--peers/--no-peers", default=True, show_default=True, help="Run arq, SAQ and taskiq-redis too.")
@click.option(
    "--peers-venv",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of their virtual environments, made if missing. Not given: a temporary one, made with pip.",
)
def main(
    json_file: Path | None,
    quick: bool,
    persist: bool,
    server_binary: Path | None,
    engines: tuple[int, ...],
    waiting: tuple[int, ...],
    requests: int,
    rounds: int,
    peers: bool,
    peers_venv: Path | None,
) -> None:
    effort = QUICK if quick else Effort(engines, waiting, requests, rounds, JOBS)
    peers = peers and (peers_venv is not None or not quick)
    report = Report("scheduling", {**asdict(effort), "peers": peers, "quick": quick})
    measure = Measurement(report, effort, persist=persist, server_binary=server_binary)
    with ExitStack() as stack:
        if peers and peers_venv is None:
            peers_venv = Path(stack.enter_context(TemporaryDirectory(prefix="sagellm-benchmark-peers-")))
        run(scheduling(measure, peers_venv.absolute() if peers and peers_venv else None))
    report.finish(json_file)


if __name__ == "__main__":
    main()
