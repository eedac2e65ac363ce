"""``chaos``: show that nothing is lost, doubled or stuck, whatever is killed."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..stopping import terminal_signals
from .exit_codes import INTERRUPTED
from .failures import Problems
from .flag_types import NewFile, Number, write_text
from .tables import print_table

if TYPE_CHECKING:
    from ..chaos.plan import ChaosPlan
    from ..chaos.report import ChaosReport

_PROCESSES = click.IntRange(1, 64)


@click.command()
@click.option("--seconds", type=Number(1, 86_400), default=60.0, show_default=True, help="How long to disturb.")
@click.option("--json", "json_file", type=NewFile(), help="Write the figures there ('-': standard output).")
@click.option("--seed", type=click.IntRange(0), help="Of all the dice.  [default: a random one, which is printed]")
@click.option("--gateways", type=_PROCESSES, default=2, show_default=True, help="Gateway processes.")
@click.option("--schedulers", type=_PROCESSES, default=3, show_default=True, help="Scheduler processes.")
@click.option("--workers", type=_PROCESSES, default=4, show_default=True, help="Worker processes.")
@click.option("--engines", type=_PROCESSES, default=4, show_default=True, help="Simulated engines.")
@click.option("--clients", type=click.IntRange(1, 1000), default=16, show_default=True, help="Clients at a time.")
@click.option("--lease-s", type=Number(1, 60), default=5.0, show_default=True, help="Lease of the workers (s).")
@click.option(
    "--every-s",
    type=Number(0.1, 600),
    default=1.5,
    show_default=True,
    help="Mean time between two disturbances (s).",
)
@click.option(
    "--settle-s",
    type=Number(1, 3600),
    default=60.0,
    show_default=True,
    help="So long (s) after the last disturbance everything must have ended.",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the logs and Valkey's file in this new or empty folder.  "
    "[default: a temporary one, kept only if the run fails]",
)
def chaos(json_file: Path | None, seed: int | None, folder: Path | None, **sizes: float) -> None:
    """Kill, stop and restart a whole system at random, and check every token of every answer.

    It starts Valkey, gateways, schedulers, workers and simulated engines of its own, on free loopback ports. Clients
    stream, leave, cancel, come back and retry meanwhile, and know beforehand what each answer must be. Exit code 1
    if a request was lost or is stuck, a token came twice or was wrong, or a place on an engine is held by nobody.

    \b
    Examples:
      sagellm-control chaos --seconds 60
      sagellm-control chaos --seconds 600 --seed 7 --json chaos.json
    """
    from ..chaos.plan import ChaosPlan
    from ..chaos.system import SystemDidNotStart

    plan = ChaosPlan(seed=secrets.randbelow(10**6) if seed is None else seed, **sizes)  # type: ignore[arg-type]
    if folder is not None and folder.is_dir() and any(folder.iterdir()):
        raise click.UsageError(f"--folder {folder}: it is not empty, and what an earlier run left would be counted")
    try:
        place = folder or Path(tempfile.mkdtemp(prefix="sagellm-control-chaos-"))
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"--folder {folder}: it cannot be made: {error.strerror}") from None
    report: ChaosReport | None = None
    keep = folder is not None
    try:
        # What the client library says in this process.
        logging.basicConfig(filename=place / "clients.log", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        report = asyncio.run(_run(plan, place.absolute()))
        keep |= report is not None and not report.passed
    except SystemDidNotStart as error:
        keep = True
        raise Problems([f"{error}; logs are in {place}"]) from None
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
    if report is None:
        sys.exit(INTERRUPTED)
    if json_file is not None:
        write_text(json_file, report.as_json())
    print_table(("FIGURE", "VALUE", "MEANING"), report.rows(), "")
    for detail in report.details:
        click.echo(detail, err=True)
    if not report.passed:
        click.echo(f"FAILED (seed {plan.seed}); logs and data are in {place}", err=True)
        sys.exit(1)
    click.echo(f"passed (seed {plan.seed})", err=True)


async def _run(plan: ChaosPlan, folder: Path) -> ChaosReport | None:
    """The report; None: interrupted."""
    from ..chaos.run import run_chaos

    loop = asyncio.get_running_loop()
    began = loop.time()

    def tell(line: str) -> None:
        click.echo(f"{loop.time() - began:6.1f}s  {line}", err=True)

    click.echo(f"Chaos for {plan.seconds:g} s, seed {plan.seed}, in {folder}", err=True)
    work = asyncio.create_task(run_chaos(plan, folder, tell), name="chaos")
    interrupted = False

    def stop() -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            click.echo("Stopping all processes in order …", err=True)
            work.cancel()

    for number in terminal_signals():
        loop.add_signal_handler(number, stop)
    try:
        return await work
    except asyncio.CancelledError:
        if not interrupted:
            raise
        return None
