"""Runs the cases and tells what came out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ..figures import Spread
from ..machine import server_facts
from ..report import Report
from . import cases
from .peers import PEERS, Peer, PeerFailed, run_peer
from .pool import empty_pool
from .raw_server import raw_rate
from .slope import Slope

BLOCKED_BACKLOG = 10_000
BLOCKED_ENGINES = 64
BLOCKED_PART = 5
"""Of the requests of the other cases: each of these costs far more."""


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


class Measurement:
    """The measurement, case by case; each prints its table and leaves its part of the report."""

    def __init__(self, report: Report, effort: Effort, *, persist: bool, server_binary: Path | None) -> None:
        self.report = report
        self.effort = effort
        self._persist = persist
        self._server_binary = server_binary

    async def direct(self) -> tuple[dict[int, Spread], dict[int, Spread]]:
        """While nobody waits, by number of engines: requests/s, and a request's cost to that of the same round with the
        fewest engines; and the raw rate of the server."""
        effort, report = self.effort, self.report
        report.note(f"direct: {effort.requests:,} arrivals, {effort.rounds} rounds")
        slopes: dict[int, list[Slope]] = {engines: [] for engines in effort.engines}
        calls: dict[str, float] = {}
        async with empty_pool(persist=self._persist, server_binary=self._server_binary) as pool:
            report.server = await server_facts(pool.url)
            for _ in range(effort.rounds):
                for engines in effort.engines:
                    slope, calls = await cases.direct(pool, engines, effort.requests)
                    slopes[engines].append(slope)
            raw_requests, raw_commands = await raw_rate(pool, effort.requests)
        rates = {engines: Spread.of([slope.per_s for slope in found]) for engines, found in slopes.items()}
        base = slopes[effort.engines[0]]
        costs = {
            engines: Spread.of([one.us / first.us for one, first in zip(found, base, strict=True)])
            for engines, found in slopes.items()
        }
        report.table(
            "Direct: intake → engine, nobody waits; median (least … most) of the rounds",
            ["engines", "requests/s", "µs a request", "to 1st row", "scheduler CPU µs", "server CPU µs"],
            [
                [
                    f"{engines:,}",
                    rate.shown(0),
                    f"{1e6 / rate.median:.1f}",
                    costs[engines].shown(2),
                    *_cpu(slopes[engines]),
                ]
                for engines, rate in rates.items()
            ],
        )
        fastest = max(rate.median for rate in rates.values())
        commands = sum(calls.values())
        report.table(
            "The same server with the same commands, pipelined in batches and without scripts",
            ["", "requests/s", "commands/s", "commands a request"],
            [
                ["raw", f"{raw_requests:,.0f}", f"{raw_commands:,.0f}", f"{raw_commands / raw_requests:.1f}"],
                ["scheduler, at its best", f"{fastest:,.0f}", f"{fastest * commands:,.0f}", f"{commands:.1f}"],
            ],
        )
        report.results["direct"] = {
            engines: {
                "requests_per_s": rates[engines].json(),
                "cost_to_fewest": costs[engines].json(),
                "rounds": [asdict(s) for s in slopes[engines]],
            }
            for engines in effort.engines
        }
        report.results["raw"] = {"requests_per_s": raw_requests, "commands_per_s": raw_commands}
        report.results["commands_a_request"] = calls
        return rates, costs

    async def past_blocked(self) -> None:
        """Arrivals that have room, past requests that cannot use it."""
        async with empty_pool(persist=self._persist, server_binary=self._server_binary) as pool:
            await cases.block(pool, BLOCKED_BACKLOG)
            slope = await cases.past_blocked(pool, BLOCKED_ENGINES, self.effort.requests // BLOCKED_PART)
        self.report.table(
            f"Direct, past {BLOCKED_BACKLOG:,} requests for a model that no engine with room serves",
            ["engines", "requests/s", "µs a request", "scheduler CPU µs", "server CPU µs"],
            [[f"{BLOCKED_ENGINES}", f"{slope.per_s:,.0f}", f"{slope.us:.1f}", *_cpu([slope])]],
        )
        self.report.results["past_blocked"] = asdict(slope)

    async def queued(self) -> dict[int, dict[int, cases.Queued]]:
        """By number waiting and of engines: the way through the waiting set."""
        effort, report = self.effort, self.report
        found: dict[int, dict[int, cases.Queued]] = {}
        filled: dict[int, cases.Filled] = {}
        reranked: dict[int, cases.Reranked] = {}
        for waiting in effort.waiting:
            report.note(f"queued: {effort.requests:,} urgent arrivals past {waiting:,} that wait")
            async with empty_pool(persist=self._persist, server_binary=self._server_binary) as pool:
                if waiting:
                    filled[waiting] = await cases.fill(pool, waiting)
                found[waiting] = {n: await cases.queued(pool, n, effort.requests) for n in effort.engines}
                if waiting:
                    reranked[waiting] = await cases.rerank(pool, waiting)
        base = found[effort.waiting[0]][effort.engines[0]].us
        report.table(
            "Queued: intake → waiting set → engine, past a backlog of less urgent requests",
            ["waiting", "engines", "admit/s", "place/s", "µs both", "to 1st row", "scheduler CPU µs", "server CPU µs"],
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
        report.table(
            "The backlogs; the first of each were accepted and admitted at the same time, the rest are copies",
            ["waiting", "requests/s", "bytes each beside the body"],
            [[f"{n:,}", f"{fill.per_s:,.0f}", f"{fill.bytes_each:,.0f}"] for n, fill in filled.items()],
        )
        report.table(
            "A change of policy: what waits is ranked anew by one scheduler",
            ["waiting", "requests/s", "s in all", "longest PING meanwhile, ms"],
            [
                [f"{n:,}", f"{done.per_s:,.0f}", f"{n / done.per_s:.1f}", f"{done.longest_ping_ms:.1f}"]
                for n, done in reranked.items()
            ],
        )
        report.results["reranked"] = {waiting: asdict(done) for waiting, done in reranked.items()}
        report.results["queued"] = {
            waiting: {engines: asdict(case) | {"us": case.us} for engines, case in by_engines.items()}
            for waiting, by_engines in found.items()
        }
        report.results["filled"] = {waiting: asdict(fill) for waiting, fill in filled.items()}
        return found

    async def peers(self, venvs: Path) -> Peer | None:
        """The fastest peer; None: none could be run."""
        rows: list[list[str]] = []
        rates: dict[Peer, float] = {}
        self.report.results["peers"] = []
        for peer in PEERS:
            self.report.note(f"{self.effort.jobs:,} no-op jobs: {' '.join((peer.folder, *peer.arguments))}")
            try:
                result = await run_peer(peer, venvs, self.effort.jobs, self._server_binary)
            except PeerFailed as error:
                self.report.complaints.append(str(error))
                continue
            self.report.results["peers"].append(result)
            rates[peer] = result["jobs_per_s"]
            rows.append([f"{result['name']} {result['version']}", f"{rates[peer]:,.0f}", result["settings"]])
        self.report.table("No-op jobs by one worker of other queues", ["", "jobs/s", "settings"], rows)
        return max(rates, key=lambda peer: rates[peer], default=None)

    async def to_peer(self, peer: Peer, venvs: Path) -> Spread:
        """Requests/s with the fewest engines, to the jobs/s of a peer: by turns, a pair of runs each round."""
        effort = self.effort
        self.report.note(f"direct and {' '.join((peer.folder, *peer.arguments))} by turns, {effort.rounds} rounds")
        ratios: list[float] = []
        async with empty_pool(persist=self._persist, server_binary=self._server_binary) as pool:
            for _ in range(effort.rounds):
                result = await run_peer(peer, venvs, effort.jobs, self._server_binary)
                slope, _ = await cases.direct(pool, effort.engines[0], effort.requests)
                ratios.append(slope.per_s / result["jobs_per_s"])
        spread = Spread.of(ratios)
        self.report.results["to_fastest_peer"] = {**spread.json(), "peer": [peer.folder, *peer.arguments]}
        return spread


def _cpu(slopes: list[Slope]) -> tuple[str, str]:
    return (
        f"{Spread.of([slope.scheduler_us for slope in slopes]).median:.1f}",
        f"{Spread.of([slope.server_us for slope in slopes]).median:.1f}",
    )
