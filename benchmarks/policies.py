"""``python -m benchmarks.policies``: what it costs to forecast, rank and place one request, without any I/O.

For each placement at 8 engines and at 2000, and for each order. In µs of CPU, the median of the rounds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median

import click

from sagellm_control.scheduler.engine_ledger import Reservation
from sagellm_control.scheduler.estimates import Estimates
from sagellm_control.scheduler.open_engines import OpenEngines
from sagellm_control.scheduler.order import ORDERS, make_order, rank_of
from sagellm_control.scheduler.placement import PLACEMENTS, make_placement
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import Arrival

ENGINES = (8, 2000)
SLOTS = 64
RUNNING = 20
"""Requests on each engine, on average."""
BLOCKS = 12
"""Of a prompt; those of one conversation are the same."""


def arrivals(number: int) -> list[Arrival]:
    """Requests of 200 conversations and 10 tenants."""
    return [
        Arrival(
            f"r{n}",
            RequestPriority(n % 5),
            float(n),
            tenant=f"t{n % 10}",
            prompt_tokens=6000,
            max_tokens=512,
            session=f"s{n % 200}",
            prefix=tuple(f"{n % 200}-{block}" for block in range(BLOCKS)),
        )
        for n in range(number)
    ]


def rank_and_place(placement_name: str, engines: int, requests: list[Arrival]) -> float:
    """µs of CPU a request: forecast, rank, choose, reserve."""
    view, estimates = OpenEngines(), Estimates()
    names = [f"e{n}" for n in range(engines)]
    view.learn(EngineRow(name, "pool", "", "vllm", SLOTS, ("m",), kv_tokens=1_000_000) for name in names)
    view.refresh(dict.fromkeys(names, SLOTS))
    order, placement = make_order("shortest"), make_placement(placement_name)
    taken: deque[Reservation] = deque()
    warm, spent = len(requests) // 4, 0.0
    for number, request in enumerate(requests):
        began = time.thread_time()
        forecast = estimates.forecast(request)
        rank_of(order, request, forecast)
        choice = placement.choose(request, forecast, view, float(number))
        if isinstance(choice, str):
            taken.append(view.reserve(choice, request, forecast, float(number)))
        if number >= warm:
            spent += time.thread_time() - began
        if len(taken) > engines * RUNNING:
            view.give_back(taken.popleft())
    return spent * 1e6 / (len(requests) - warm)


def rank(order_name: str, requests: list[Arrival]) -> float:
    """µs of CPU a request: handicap and charge."""
    order, forecast = make_order(order_name), Estimates().forecast(requests[0])
    began = time.thread_time()
    for request in requests:
        order.handicap(request, forecast)
        order.charge(request, forecast)
    return (time.thread_time() - began) * 1e6 / len(requests)


@click.command()
@click.option("--requests", default=20_000, show_default=True, help="In each round")
@click.option("--rounds", default=5, show_default=True)
def main(requests: int, rounds: int) -> None:
    """Print two tables."""
    asked = arrivals(requests)

    def cost(measure: Callable[[], float]) -> float:
        return median(measure() for _ in range(rounds))

    click.echo("µs to forecast, rank, place and reserve".ljust(42) + "".join(f"{n:>6,} engines" for n in ENGINES))
    for name in PLACEMENTS:
        figures = [cost(lambda name=name, n=n: rank_and_place(name, n, asked)) for n in ENGINES]
        click.echo(f"  {name:40}" + "".join(f"{figure:14.1f}" for figure in figures))
    click.echo("\nµs to rank and charge")
    for name in ORDERS:
        click.echo(f"  {name:40}{cost(lambda name=name: rank(name, asked)):14.2f}")


if __name__ == "__main__":
    main()
