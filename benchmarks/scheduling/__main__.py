"""``python -m benchmarks.scheduling``: how many requests one scheduler process moves from intake to engines.

With 1 to 2000 engines and up to a million requests that wait, beside the raw rate of the server and the no-op jobs of
other queues. The engines are rows that nobody serves: what is measured ends where a worker would begin.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from ..figures import Spread
from ..machine import server_facts
from ..options import run, shared_flags
from ..report import Report, Target
from . import cases
from .peers import PEERS, PeerFailed, run_peer
from .pool import empty_pool
from .raw_server import raw_rate
from .slope import Slope

RATE_TARGET = 15_000
PEER_RATIO_TARGET = 5
COST_RATIO_TARGET = 1.5
BYTES_TARGET = 1024
BLOCKED_BACKLOG = 10_000
BLOCKED_ENGINES = 64


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    engines: tuple[int, ...]
    waiting: tuple[int, ...]
    requests: int
    """Moved in each case."""
    rounds: int
    """Of the case without waiting requests."""
    jobs: int
    """No-op jobs for each peer."""


class Scheduling:
    """The measurement, case by case."""

    def __init__(self, report: Report, effort: Effort, *, persist: bool, server_binary: Path | None) -> None:
        self.report = report
        self.effort = effort
        self._server = {"persist": persist, "server_binary": server_binary}
        self._server_binary = server_binary

    async def direct(self) -> dict[int, Spread]:
        """Requests/s by number of engines while nobody waits."""
        effort = self.effort
        self.report.note(f"direct: {effort.requests:,} arrivals, {effort.rounds} rounds")
        slopes: dict[int, list[Slope]] = {engines: [] for engines in effort.engines}
        calls: dict[str, float] = {}
        async with empty_pool(**self._server) as pool:
            self.report.server = await server_facts(pool.url)
            for _ in range(effort.rounds):
                for engines in effort.engines:
                    slope, calls_now = await cases.direct(pool, engines, effort.requests)
                    slopes[engines].append(slope)
                    calls = calls or calls_now
            raw_requests, raw_commands = await raw_rate(pool, effort.requests)
        rates = {engines: Spread.of([slope.per_s for slope in found]) for engines, found in slopes.items()}
        first = rates[effort.engines[0]].median
        self.report.table(
            "Direct: intake → engine, nobody waits; median (least … most) of the rounds",
            ["engines", "requests/s", "µs a request", f"to {effort.engines[0]} engine", "scheduler CPU µs", "server CPU µs"],
            [
                [
                    f"{engines:,}",
                    rate.shown(0),
                    f"{1e6 / rate.median:.1f}",
                    f"{first / rate.median:.2f}",
                    *_cpu(slopes[engines]),
                ]
                for engines, rate in rates.items()
            ],
        )
        commands = sum(calls.values())
        self.report.table(
            "The same server, the same commands, pipelined in batches without scripts",
            ["", "requests/s", "commands/s", "commands a request"],
            [
                ["raw", f"{raw_requests:,.0f}", f"{raw_commands:,.0f}", f"{raw_commands / raw_requests:.1f}"],
                ["scheduler", f"{first:,.0f}", f"{first * commands:,.0f}", f"{commands:.1f}"],
            ],
        )
        self.report.results["direct"] = {
            engines: {"requests_per_s": rates[engines].json(), "rounds": [asdict(s) for s in slopes[engines]]}
            for engines in effort.engines
        }
        self.report.results["raw"] = {"requests_per_s": raw_requests, "commands_per_s": raw_commands}
        self.report.results["commands_a_request"] = calls
        return rates

    async def queued(self) -> tuple[dict[int, dict[int, cases.Queued]], dict[int, cases.Filled]]:
        """By number waiting and of engines: the way through the waiting set. And how each backlog was made."""
        effort = self.effort
        found: dict[int, dict[int, cases.Queued]] = {}
        filled: dict[int, cases.Filled] = {}
        for waiting in effort.waiting:
            self.report.note(f"queued: {effort.requests:,} urgent arrivals past {waiting:,} that wait")
            async with empty_pool(**self._server) as pool:
                if waiting:
                    filled[waiting] = await cases.fill(pool, waiting)
                found[waiting] = {n: await cases.queued(pool, n, effort.requests) for n in effort.engines}
        base = found[effort.waiting[0]][effort.engines[0]].us
        self.report.table(
            "Queued: intake → waiting set → engine, past a backlog of less urgent requests",
            ["waiting", "engines", "admit/s", "place/s", "µs both", "to the first row", "scheduler CPU µs", "server CPU µs"],
            [
                [
                    f"{waiting:,}",
                    f"{engines:,}",
                    f"{case.admit.per_s:,.0f}",
                    f"{case.place.per_s:,.0f}",
                    f"{case.us:.1f}",
                    f"{case.us / base:.2f}",
                    f"{case.admit.scheduler_us + case.place.scheduler_us:.1f}",
                    f"{case.admit.server_us + case.place.server_us:.1f}",
                ]
                for waiting, by_engines in found.items()
                for engines, case in by_engines.items()
            ],
        )
        self.report.results["queued"] = {
            waiting: {engines: asdict(case) | {"us": case.us} for engines, case in by_engines.items()}
            for waiting, by_engines in found.items()
        }
        self.report.results["filled"] = {waiting: asdict(fill) for waiting, fill in filled.items()}
        for waiting, fill in filled.items():
            self.report.note(
                f"{waiting:,} waiting: accepted and admitted at {fill.per_s:,.0f}/s, "
                f"{fill.bytes_each:,.0f} bytes each beside the body"
            )
        return found, filled

    async def past_blocked(self) -> None:
        """Arrivals that have room, past requests that cannot use it."""
        async with empty_pool(**self._server) as pool:
            await cases.block(pool, BLOCKED_BACKLOG)
            slope = await cases.past_blocked(pool, BLOCKED_ENGINES, self.effort.requests)
        self.report.table(
            f"Direct, past {BLOCKED_BACKLOG:,} requests for a model that no engine with room serves",
            ["engines", "requests/s", "µs a request", "scheduler CPU µs", "server CPU µs"],
            [[f"{BLOCKED_ENGINES}", f"{slope.per_s:,.0f}", f"{slope.us:.1f}", *_cpu([slope])]],
        )
        self.report.results["past_blocked"] = asdict(slope)

    async def peers(self, venvs: Path) -> float:
        """Jobs/s of the fastest peer; 0: none could be run."""
        rows: list[list[str]] = []
        results: list[dict[str, object]] = []
        for peer in PEERS:
            self.report.note(f"{self.effort.jobs:,} no-op jobs: {' '.join((peer.folder, *peer.arguments))}")
            try:
                result = await run_peer(peer, venvs, self.effort.jobs, self._server_binary)
            except PeerFailed as error:
                self.report.complaints.append(str(error))
                continue
            results.append(result)
            rows.append([f"{result['name']} {result['version']}", f"{result['jobs_per_s']:,.0f}", result["settings"]])
        self.report.table("No-op jobs by one worker of other queues", ["", "jobs/s", "settings"], rows)
        self.report.results["peers"] = results
        return max((float(str(result["jobs_per_s"])) for result in results), default=0.0)


def _cpu(slopes: list[Slope]) -> tuple[str, str]:
    return (
        f"{Spread.of([slope.scheduler_us for slope in slopes]).median:.1f}",
        f"{Spread.of([slope.server_us for slope in slopes]).median:.1f}",
    )


async def scheduling(measure: Scheduling, venvs: Path | None) -> None:
    """All cases, and what they are to reach."""
    report, effort = measure.report, measure.effort
    fastest = await measure.peers(venvs) if venvs else 0.0
    direct = await measure.direct()
    await measure.past_blocked()
    queued, filled = await measure.queued()
    slowest = min(rate.median for rate in direct.values())
    first = direct[effort.engines[0]].median
    base, deep = (queued[effort.waiting[i]] for i in (0, -1))
    depth = max(deep[engines].us / base[engines].us for engines in effort.engines)
    most, least = effort.engines[-1], effort.engines[0]
    report.targets = [
        Target("one scheduler, direct, slowest number of engines", slowest, RATE_TARGET, at_most=False, unit="requests/s"),
        Target(
            f"cost of a request: {most:,} engines to {least}",
            first / direct[most].median,
            COST_RATIO_TARGET,
            at_most=True,
            unit="×",
        ),
        Target(
            f"cost of a request through the waiting set: {effort.waiting[-1]:,} waiting to {effort.waiting[0]:,}",
            depth,
            COST_RATIO_TARGET,
            at_most=True,
            unit="×",
        ),
        Target(
            "memory of a waiting request beside its body",
            max((fill.bytes_each for fill in filled.values()), default=0.0),
            BYTES_TARGET,
            at_most=True,
            unit="bytes",
        ),
    ]
    if fastest:
        report.targets.append(
            Target("direct, to the fastest peer", first / fastest, PEER_RATIO_TARGET, at_most=False, unit="×")
        )


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
@click.option("--rounds", default=3, show_default=True, help="Of the direct case.")
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
    effort = Effort(engines, waiting, requests, rounds, jobs=10_000)
    if quick:
        effort = Effort((1, 2000), (0, 10_000), 10_000, 1, jobs=3_000)
        peers = peers_venv is not None
    report = Report("scheduling", {**asdict(effort), "quick": quick})
    measure = Scheduling(report, effort, persist=persist, server_binary=server_binary)
    with ExitStack() as stack:
        if peers and peers_venv is None:
            peers_venv = Path(stack.enter_context(TemporaryDirectory(prefix="sagellm-benchmark-peers-")))
        run(scheduling(measure, peers_venv.absolute() if peers and peers_venv else None))
    report.finish(json_file)


if __name__ == "__main__":
    main()
