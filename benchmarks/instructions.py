"""``python -m benchmarks.instructions``: how many machine instructions one request costs the gateway, the worker and
the server, counted by valgrind's callgrind (Debian: ``apt-get install valgrind``).

A count repeats within a few per cent on any machine, however busy, where times differ by a factor of two: it is what
two states of the code are compared by. One request after the other is sent, with a pause in which its end is dealt
with.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from sagellm_control.embedded import carried_binary

from .chat import chats
from .client import LoadClient
from .machine import server_facts
from .options import run
from .process import BenchmarkFailed
from .report import Report, Target
from .system import UNTIMED_ENGINE, Plan, System, running

PARTS = ("gateway", "worker", "server")
TOKENS = 10
WARM_UP = 60
"""Requests before the count begins: until then caches fill and code is specialised."""
PAUSE_S = 0.15
SLOW_ANSWER_S = 60.0
"""Of Redis: whatever runs under callgrind is fifty times slower."""
COUNTER = ("valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no")


async def instructions(report: Report, parts: Sequence[str], requests: int) -> None:
    """Count for one part after the other, each in a system of its own."""
    rows: list[list[str]] = []
    for part in parts:
        report.note(f"{part}: {requests} requests, one after the other")
        with tempfile.TemporaryDirectory(prefix="sagellm-callgrind-") as folder:
            out = Path(folder) / "counts"
            counter = [*COUNTER, f"--callgrind-out-file={out}"]
            async with running(_plan(part, counter, Path(folder))) as system:
                report.server = await server_facts(system.redis_url)
                await _count(report, system, _pid(system, part), requests)
                report.complaints += system.complaints()
            counted = _read_counts(out) / requests
        report.results[part] = {"instructions_per_request": round(counted)}
        rows.append([part, f"{counted / 1000:,.0f} k"])
    report.table("Instructions a request", ["", "instructions"], rows)
    report.targets = [Target("answers that were not whole, and warnings", len(report.complaints), 0, True, "")]


def _plan(part: str, counter: Sequence[str], folder: Path) -> Plan:
    if part != "server":
        return Plan(UNTIMED_ENGINE, under={part: counter}, redis_timeout_s=SLOW_ANSWER_S)
    script = folder / "server"
    script.write_text(f'#!/bin/sh\nexec {shlex.join([*counter, str(carried_binary())])} "$@"\n')
    script.chmod(0o755)
    return Plan(UNTIMED_ENGINE, server_binary=script, redis_timeout_s=SLOW_ANSWER_S)


def _pid(system: System, part: str) -> int:
    return system.valkey_pid if part == "server" else system.processes[part].pid


async def _count(report: Report, system: System, pid: int, requests: int) -> None:
    async with LoadClient(system.gateway) as client:
        await client.connect(2)
        prompts = chats(client.port, TOKENS)
        for _ in range(WARM_UP):
            await client.one(next(prompts))
        await _control(pid, "--instr=on")
        for _ in range(requests):
            exchange = await client.one(next(prompts))
            if exchange.problem:
                report.complaints.append(exchange.problem)
            await asyncio.sleep(PAUSE_S)
        await _control(pid, "--instr=off")
        await _control(pid, "--dump")


async def _control(pid: int, what: str) -> None:
    control = await asyncio.create_subprocess_exec(
        "callgrind_control", what, str(pid), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await control.communicate()
    if control.returncode:
        raise BenchmarkFailed(f"callgrind_control {what} failed: {said.decode(errors='replace').strip()}")


def _read_counts(out: Path) -> int:
    """The largest total of the dumps: those that were written when counting was off hold nothing."""
    totals = [0]
    for dump in out.parent.glob(f"{out.name}*"):
        lines = dump.read_text(errors="replace").splitlines()
        totals += [int(line.split()[1]) for line in lines if line.startswith("totals:")]
    return max(totals)


@click.command(help=__doc__)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the results here.")
@click.option("--requests", default=100, show_default=True)
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only these. Not given: all.")
def main(json_file: Path | None, requests: int, parts: tuple[str, ...]) -> None:
    if shutil.which("valgrind") is None:
        raise click.ClickException("valgrind is not there: apt-get install valgrind")
    os.environ["PYTHONHASHSEED"] = "0"  # else names fall into other places of each dictionary, which costs a little
    report = Report("instructions", {"requests": requests})
    run(instructions(report, parts or PARTS, requests))
    report.finish(json_file)


if __name__ == "__main__":
    main()
