"""``simulate``: play a trace against policies, placements and routers, without an engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from .flag_types import NewFile, Number, write_text
from .simulate_flags import cases_of_flags, setting_of_flags, workload_of_flags
from .tables import print_table


@click.command()
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="CSV (TIMESTAMP,ContextTokens,GeneratedTokens) or JSON lines (timestamp, input_length, output_length, …).",
)
@click.option("--synthetic", type=click.Choice(["poisson", "bursts"]), help="Made-up arrivals instead of a trace.")
@click.option("--requests", type=click.IntRange(1), help="Only so many of the trace's requests; of made-up ones: 5000.")
@click.option("--engines", type=click.IntRange(1, 10_000), default=16, show_default=True, help="How many engines.")
@click.option("--speeds", default="1", show_default=True, metavar="F,…", help="Speed factors, in turn: 1,0.5.")
@click.option(
    "--roles",
    default="general",
    show_default=True,
    metavar="ROLE,…",
    help="Which stages engines take, in turn: prefilling,decoding.",
)
@click.option(
    "--slots",
    type=click.IntRange(1, 100_000),
    default=64,
    show_default=True,
    help="Requests that an engine runs at once.",
)
@click.option(
    "--prefill-tps",
    type=Number(1, 1e9),
    default=20_000.0,
    show_default=True,
    help="Prompt tokens a second of an engine at speed factor 1.",
)
@click.option(
    "--cache-blocks",
    type=click.IntRange(0, 10**9),
    default=1000,
    show_default=True,
    help="Blocks of 512 tokens in an engine's prefix cache; 0: it never forgets.",
)
@click.option("--policy", default="shortest", show_default=True, metavar="NAME,…|all", help="Who is next.")
@click.option("--placement", default="kv_cost", show_default=True, metavar="NAME,…|all", help="On which engine.")
@click.option("--load", type=Number(0.001, 1000), help="Times the knee, which is looked for first.  [default: 1]")
@click.option("--rate", type=Number(0.000001), help="Requests a second instead of --load: no knee is needed.")
@click.option("--knee-rate", type=Number(0.000001), help="The knee (requests/s), where it is known already.")
@click.option("--batch-share", type=Number(0, 1), default=0.0, show_default=True, help="Part that is batch.")
@click.option("--tenants", type=click.IntRange(1, 10_000), default=1, show_default=True, help="How many tenants.")
@click.option(
    "--aggressive",
    type=Number(1),
    default=1.0,
    show_default=True,
    help="Times the others' requests that tenant-0 sends.",
)
@click.option("--without-aggressive", is_flag=True, help="The same arrivals, less those of tenant-0.")
@click.option(
    "--late",
    type=click.Choice(["step_back", "refuse", "serve"]),
    default="step_back",
    show_default=True,
    help="What becomes of requests that cannot meet their objective.",
)
@click.option(
    "--pace",
    default="learned",
    show_default=True,
    metavar="learned|off|SHARE",
    help="Prefill work that may start on an engine: learned, unbounded, or a share of its prefill speed.",
)
@click.option(
    "--fail",
    "failures",
    multiple=True,
    metavar="ENGINE@S+S",
    help="Engine number 3 is gone from second 60 for 30 s: 3@60+30.",
)
@click.option(
    "--set", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of the pool, e.g. stretch=20."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of classes, tenants and made-up arrivals.")
@click.option("--only-ours", is_flag=True, help="Without the rows to compare with.")
@click.option("--processes", type=click.IntRange(0), default=0, help="Rows run at once; 0: one a core.")
@click.option("--json", "json_file", type=NewFile(), help="Write the rows to this file ('-': standard output).")
@click.option("--plot", type=NewFile(), help="Write a page with plots (HTML, nothing from the network).")
def simulate(
    trace: Path | None,
    synthetic: str | None,
    requests: int | None,
    engines: int,
    speeds: str,
    roles: str,
    slots: int,
    prefill_tps: float,
    cache_blocks: int,
    policy: str,
    placement: str,
    load: float | None,
    rate: float | None,
    knee_rate: float | None,
    batch_share: float,
    tenants: int,
    aggressive: float,
    without_aggressive: bool,
    late: str,
    pace: str,
    failures: tuple[str, ...],
    parameters: tuple[str, ...],
    seed: int,
    only_ours: bool,
    processes: int,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Play a trace against policies and placements, with the objects that the scheduler uses, and print a table.

    Loads are multiples of the knee: the highest rate at which the best of the routers that send each request at once
    to an engine still meets 90 % of the objectives. Objectives: interactive requests TTFT ≤ 1 s + 3 × their own
    prefill and a mean TPOT ≤ 60 ms; batch requests TTFT ≤ 60 s. Rows to compare with: those routers, and an oracle
    that knows output lengths. The same command gives the same figures on every machine.

    \b
    Examples:
      sagellm-control simulate --trace conversation_trace.jsonl --load 1.33
      sagellm-control simulate --trace conversation_trace.jsonl --load 1.33 --batch-share 0.6 --json out.json
      sagellm-control simulate --trace trace.csv --policy all --placement all --load 1 --plot page.html
      sagellm-control simulate --synthetic bursts --tenants 8 --aggressive 10 --policy fair --load 1.2
    """
    from ..simulator.knee import find_knee
    from ..simulator.report import COLUMNS, json_report, summary, table_line
    from ..simulator.rows import Row, run_cases

    if (trace is None) == (synthetic is None):
        raise click.UsageError("give either --trace FILE or --synthetic KIND")
    if rate is not None and load is not None:
        raise click.UsageError("--rate and --load exclude each other")
    cases = cases_of_flags(policy, placement, only_ours)
    setting = setting_of_flags(
        engines=engines,
        speeds=speeds,
        roles=roles,
        slots=slots,
        prefill_tps=prefill_tps,
        cache_blocks=cache_blocks,
        late=late,
        pace=pace,
        failures=failures,
        parameters=parameters,
    )
    workload = workload_of_flags(
        trace=trace,
        synthetic=synthetic,
        requests=requests,
        setting=setting,
        batch_share=batch_share,
        tenants=tenants,
        aggressive=aggressive,
        without_aggressive=without_aggressive,
        seed=seed,
    )
    knee_router: str | None = None
    if rate is None:
        load = 1.0 if load is None else load
        if knee_rate is None:
            knee = find_knee(workload, setting.fleet, told=_tell_step)
            knee_rate, knee_router = knee.rate, knee.router
        said = f" ({knee_router})" if knee_router else ""
        click.echo(f"knee: {knee_rate:.3f} requests/s{said}", err=True)
        rate = load * knee_rate
    click.echo(f"{len(workload.jobs)} requests at {rate:.3f} requests/s on {engines} engines", err=True)
    rows: list[Row] = []
    for row in run_cases(cases, workload, rate, setting, processes=processes):
        rows.append(row)
        _tell(f"[{len(rows)}/{len(cases)}] {row.case.kind} {row.case.policy} {row.case.placement} {row.took_s:.1f} s")
    if json_file is None or str(json_file) != "-":
        print_table(COLUMNS, [table_line(row) for row in rows], empty="There are no rows.")
        for line in summary(rows):
            click.echo(line)
    if json_file is not None:
        report = json_report(
            trace=workload.name,
            requests=len(workload.jobs),
            engines=engines,
            load=load,
            rate=rate,
            knee_rate=knee_rate,
            knee_router=knee_router,
            batch_share=batch_share,
            seed=seed,
            rows=rows,
        )
        write_text(json_file, json.dumps(report, indent=2) + "\n")
    if plot is not None:
        from ..simulator.plot_page import plot_page

        facts = [f"{len(workload.jobs)} requests of {workload.name}, {rate:.2f} a second, {engines} engines"]
        if knee_rate:
            facts.append(f"knee: {knee_rate:.2f} requests/s; load: {rate / knee_rate:.2f} times the knee")
        write_text(plot, plot_page("sagellm-control simulate", facts, rows))


def _tell_step(rate: float, router: str | None) -> None:
    _tell(f"knee: {rate:.3f} requests/s: " + (f"met by {router}" if router else "met by none"))


def _tell(line: str) -> None:
    # For whoever watches; a script's log stays short.
    if sys.stderr.isatty():
        click.echo(line, err=True)
