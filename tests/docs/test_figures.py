"""README's figures are those of benchmarks/results, and it says which of their targets were missed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FIGURES = (ROOT / "README.md").read_text().partition("\n## Figures\n")[2].partition("\n## ")[0]
RESULTS: dict[str, Any] = {p.stem: json.loads(p.read_text()) for p in (ROOT / "benchmarks/results").glob("*.json")}

PARTS = ("gateway", "worker", "server")


def row(beginning: str) -> str:
    (line,) = [line for line in FIGURES.splitlines() if line.startswith(f"| {beginning}")]
    return line


def rounded(result: dict[str, Any], times: int, to: int) -> str:
    """A rate and its spread, to so many."""
    rate = result["requests_per_s"]
    median, least, most = (round(rate[which] * times / to) * to for which in ("median", "least", "most"))
    return f"{median:,} ({least:,} … {most:,})"


def spread(figure: dict[str, float], unit: str = "") -> str:
    return f"{figure['median']:.1f}{unit} ({figure['least']:.1f} … {figure['most']:.1f})"


@pytest.mark.parametrize(
    ("beginning", "load"),
    [
        ("added time to first token, one request at a time", "alone"),
        ("added time to first token at 100 requests/s", "fixed_rate"),
        ("added time to first token at half", "half_load"),
    ],
)
def test_the_time_to_the_first_token(beginning: str, load: str) -> None:
    figures, line = RESULTS["latency"]["results"][load], row(beginning)
    added, bare = figures["queue, added"], figures["bare chain, added"]
    assert f"p50 {spread(added['p50_ms'], ' ms')}" in line
    assert f"p99 {added['p99_ms']['median']:.1f} ms" in line
    assert f" adds {bare['p50_ms']['median']:.1f} ms" in line


def test_the_rate_at_half_load() -> None:
    half = RESULTS["latency"]["results"]["capacity_rps"] / 2
    assert f"({half:.0f} requests/s)" in row("added time to first token at half")


def test_the_throughput() -> None:
    short, long = RESULTS["throughput"]["results"].values()
    assert f"| {rounded(short['queue'], 1, 10)} |" in row("finished streaming requests/s")
    assert f"directly: {round(short['direct']['requests_per_s']['median'] / 10) * 10:,} |" in row("finished streaming")
    assert f"| {rounded(long['queue'], long['tokens'], 100)} |" in row("tokens/s")


def test_what_one_scheduler_moves() -> None:
    results = RESULTS["scheduling"]["results"]
    fewest, most = results["direct"]["1"], results["direct"]["2000"]
    assert f"| {rounded(fewest, 1, 100)} … {rounded(most, 1, 100)} |" in row("requests/s from intake to engine")
    cost, peer = most["cost_to_fewest"], results["to_fastest_peer"]
    assert f"| {cost['median']:.2f} × ({cost['least']:.2f} … {cost['most']:.2f}) |" in row("cost of a request past")
    assert f"| {spread(peer, ' ×')} |" in row("requests/s to the fastest")


def test_the_instructions_of_a_request() -> None:
    results = RESULTS["instructions"]["results"]
    gateway, worker, server = (f"{results[part]['instructions_per_request'] / 1e6:.1f}" for part in PARTS)
    assert f"| {gateway}, {worker} and {server} million |" in row("instructions that a request")


def test_the_library() -> None:
    results = RESULTS["manager"]["results"]
    rates = (results["pairs_512"], results["execute_local"]["rps"], results["execute_shared"]["rps"])
    places, here, shared = (f"{round(rate['median'] / 10) * 10:,}" for rate in rates)
    assert f"| {places}; {here}, {shared} |" in row("as a library")


def test_the_memory_of_an_open_stream_is_the_gateways() -> None:
    results = RESULTS["streams"]["results"]
    memory = results["memory_mb"]
    kib = 1024 * (memory["peak"]["gateway"] - memory["before"]["gateway"]) / results["open_at_once"]
    assert f", {kib:.0f} KiB each |" in row("open streams on one gateway")


def test_every_target_that_was_missed() -> None:
    missed = [target for result in RESULTS.values() for target in result["targets"] if not target["met"]]
    told = re.findall(r"([\d,.]+) instead of ([\d,.]+)", FIGURES)
    assert sorted(told) == sorted((shown(target["value"]), f"{target['limit']:,g}") for target in missed)


def shown(value: float) -> str:
    return f"{value:,.0f}" if value > 100 else f"{value:.1f}"
