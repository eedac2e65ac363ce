"""``python -m benchmarks.cancellation``: from a client's leaving to the engine's socket closing.

One client at a time opens a stream, reads its first token and closes its connection; the simulated engine, which looks
between two tokens (every 5 ms), says when it has noticed.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import click

from .figures import Spread, percentile
from .machine import server_facts
from .options import run, shared_flags
from .report import Report, Target
from .system import HOST, MODEL, Plan, running

ENGINE = ("--prefill-tokens-per-s", "0", "--tpot-ms", "5", "--slots", "4")
TARGET_MS = 100.0
LOOKS = 2000
LOOK_EVERY_S = 0.001
"""How often the engine is asked; what that takes is part of the figure."""


async def cancellation(plan: Plan, report: Report, *, rounds: int, cancels: int) -> None:
    """Measure it."""
    took: list[list[float]] = []
    async with running(plan) as system, aiohttp.ClientSession() as session:
        report.server = await server_facts(system.redis_url)
        state_url = f"http://{HOST}:{system.engines[0]}/simulated/state"
        chat_url = f"http://{HOST}:{system.gateway}/v1/chat/completions"
        body = {
            "model": MODEL,
            "stream": True,
            "max_tokens": 100_000,
            "messages": [{"role": "user", "content": "stay"}],
        }

        async def aborted() -> int:
            async with session.get(state_url) as response:
                return (await response.json())["aborted"]

        for _ in range(rounds):
            took.append([])
            for _ in range(cancels):
                before = await aborted()
                async with aiohttp.ClientSession() as client:
                    response = await client.post(chat_url, json=body)
                    await response.content.readany()
                    began = time.monotonic()
                    response.close()
                    for _ in range(LOOKS):
                        if await aborted() > before:
                            break
                        await asyncio.sleep(LOOK_EVERY_S)
                    else:
                        report.complaints.append("an engine has not noticed a cancel")
                took[-1].append((time.monotonic() - began) * 1000)
        report.complaints += system.complaints()
    shown = {percent: Spread.of([percentile(values, percent) for values in took]) for percent in (50, 99)}
    report.results = {f"p{percent}_ms": spread.json() for percent, spread in shown.items()}
    report.results["cancels"] = rounds * cancels
    report.table(
        "From the client's leaving to the engine's socket closing: median (least … most) of the rounds",
        ["ms", *(f"p{percent}" for percent in shown)],
        [["in mid-stream", *(spread.shown() for spread in shown.values())]],
    )
    report.targets = [Target("cancel to socket closed, p99", shown[99].median, TARGET_MS, True, "ms")]


@click.command(help=__doc__)
@shared_flags
@click.option("--rounds", default=5, show_default=True)
@click.option("--cancels", default=200, show_default=True, help="A round.")
def main(
    json_file: Path | None, quick: bool, persist: bool, server_binary: Path | None, rounds: int, cancels: int
) -> None:
    rounds, cancels = (2, 50) if quick else (rounds, cancels)
    report = Report("cancellation", {"rounds": rounds, "cancels": cancels, "quick": quick})
    plan = Plan(ENGINE, persist=persist, server_binary=server_binary)
    run(cancellation(plan, report, rounds=rounds, cancels=cancels))
    report.finish(json_file)


if __name__ == "__main__":
    main()
