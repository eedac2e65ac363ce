"""The control plane as a library: places given and taken a second, requests a second, and what stays in memory.

``schedule_request`` with ``complete_request``, with one engine and with many; ``execute_request`` with 64 under way, in
front of an engine that does nothing, with the state in the process and with the state in Redis.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import click
from sagellm_protocol import Metrics, Request, Response, StreamEvent

from sagellm_control import ControlPlaneManager, EngineState
from sagellm_control.embedded import EmbeddedValkey, free_port

from .figures import Spread, percentile
from .options import run, shared_flags
from .process import MeasuredProcess, memory_mb
from .report import Report, Target

MODEL = "trivial"


async def pairs_a_second(engines: int, pairs: int) -> float:
    """``schedule_request`` and ``complete_request``, one after another."""
    manager = ControlPlaneManager()
    for number in range(engines):
        manager.register_engine(f"e{number}", MODEL, "127.0.0.1", 1)
        manager.update_engine_state(f"e{number}", EngineState.READY)
    began = time.perf_counter()
    for number in range(pairs):
        decision = await manager.schedule_request(f"r{number}", "t", MODEL)
        assert decision.engine_id is not None
        manager.complete_request(decision.request_id, decision.engine_id)
    return pairs / (time.perf_counter() - began)


async def requests(manager: ControlPlaneManager, count: int, at_once: int, tenants: int = 0) -> list[float]:
    """Latencies (ms) of so many requests, with so many under way."""
    numbers = iter(range(count))
    took_ms: list[float] = []

    async def ask() -> None:
        for number in numbers:
            request = Request(
                request_id=f"{time.time_ns()}-{number}",
                trace_id="t",
                model=MODEL,
                prompt="Hello",
                max_tokens=1,
                stream=False,
                metadata={"tenant": f"tenant-{number % tenants}"} if tenants else None,
            )
            began = time.perf_counter()
            response = await manager.execute_request(request)
            assert response.error is None, response.error
            took_ms.append((time.perf_counter() - began) * 1000)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(ask())
    return took_ms


@asynccontextmanager
async def managed(shared: bool, folder: Path) -> AsyncGenerator[ControlPlaneManager, None]:
    """A manager in front of a trivial engine, with all that it needs."""
    async with AsyncExitStack() as stack:
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.trivial_engine", str(port)]
        await stack.enter_async_context(MeasuredProcess("engine", command, folder / "engine.log", os.environ))
        manager = ControlPlaneManager()
        if shared:
            valkey = await stack.enter_async_context(EmbeddedValkey(persist=False))
            for name, arguments in (("scheduler", ("scheduler",)), ("worker", ("worker", "--adopt"))):
                arguments = (*arguments, "--redis-url", valkey.url)
                await stack.enter_async_context(MeasuredProcess.control(name, arguments, folder))
            manager = ControlPlaneManager(redis_url=valkey.url)
        await manager.start()
        stack.push_async_callback(manager.stop)
        manager.register_engine("e1", MODEL, "127.0.0.1", port, metadata={"wire": "sagellm"})
        async with asyncio.timeout(30):
            while not manager.healthy_engine_count:  # noqa: ASYNC110 - as programs do
                await asyncio.sleep(0.05)
        yield manager


async def measure(report: Report, *, rounds: int, pairs: int, asked: int, at_once: int, kept: int) -> None:
    """All of it."""
    rows: list[list[str]] = []
    for engines in (1, 512):
        rates = [await pairs_a_second(engines, pairs) for _ in range(rounds)]
        rows.append([f"{engines} engines", Spread.of(rates).shown(0)])
        report.results[f"pairs_{engines}"] = Spread.of(rates).json()
        report.targets.append(Target(f"pairs/s, {engines} engines", Spread.of(rates).median, 50_000, False, "1/s"))
    report.table("schedule_request + complete_request", ["", "pairs/s"], rows)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, shared, least in (("in the process", False, 1000), ("in Redis", True, 500)):
            async with managed(shared, Path(folder)) as manager:
                await requests(manager, asked // 4, at_once)
                rates, p50, p99 = [], [], []
                for _ in range(rounds):
                    began = time.perf_counter()
                    took_ms = await requests(manager, asked, at_once)
                    rates.append(asked / (time.perf_counter() - began))
                    p50.append(percentile(took_ms, 50))
                    p99.append(percentile(took_ms, 99))
            rows.append([name, Spread.of(rates).shown(0), Spread.of(p50).shown(1), Spread.of(p99).shown(1)])
            report.results[f"execute_{'shared' if shared else 'local'}"] = {
                "rps": Spread.of(rates).json(),
                "p50_ms": Spread.of(p50).json(),
                "p99_ms": Spread.of(p99).json(),
            }
            report.targets.append(Target(f"requests/s, {name}", Spread.of(rates).median, least, False, "1/s"))
            if not shared:
                report.targets.append(Target("p99", Spread.of(p99).median, 150, True, "ms"))
    report.table(f"execute_request, {at_once} under way", ["state", "requests/s", "p50 ms", "p99 ms"], rows)

    rows = [
        ["schedule_request + complete_request", *await growth(report, "pairs", kept, lambda n: pairs_a_second(8, n))],
        ["execute_request", *await growth(report, "executed", kept // 10, run_in_process)],
    ]
    report.table("memory of this process", ["", "requests", "before MiB", "after MiB"], rows)


async def growth(report: Report, name: str, count: int, run: Callable[[int], Awaitable[object]]) -> list[str]:
    """What so many requests leave in memory, after a tenth as many that fill what is bounded."""
    await run(count // 10)
    gc.collect()
    before_mb = memory_mb(os.getpid())[0]
    await run(count)
    gc.collect()
    after_mb = memory_mb(os.getpid())[0]
    report.results[f"memory_{name}"] = {"requests": count, "before_mb": before_mb, "after_mb": after_mb}
    report.targets.append(Target(f"memory after {count:,} {name}", after_mb - before_mb, 10, True, "MiB"))
    return [f"{count:,}", f"{before_mb:.1f}", f"{after_mb:.1f}"]


class TrivialEngine:
    """An engine in this process that does nothing, so that what stays in memory is the manager's."""

    engine_id = "e1"

    async def execute(self, request: Request) -> Response:
        """An answer at once."""
        return Response(
            request_id=request.request_id,
            trace_id=request.trace_id,
            output_text="Hello",
            output_tokens=[1],
            finish_reason="stop",
            metrics=Metrics(ttft_ms=1, throughput_tps=1, peak_mem_mb=0, error_rate=0),
        )

    def stream(self, request: Request) -> AsyncIterator[StreamEvent]:
        """Nobody asks for it here."""
        raise NotImplementedError

    async def health_check(self) -> bool:
        """It always is."""
        return True


async def run_in_process(count: int) -> None:
    """So many requests, each under an id of its own, 64 under way, as many tenants as there are ids in a thousand."""
    manager = ControlPlaneManager("fair")
    await manager.start()
    metadata = {"engine_instance": TrivialEngine(), "pre_verified_healthy": True, "max_concurrent_requests": 16}
    manager.register_engine("e1", MODEL, "127.0.0.1", 1, metadata=metadata)
    for _ in range(0, count, 1000):
        await requests(manager, 1000, 64, tenants=1000)  # keeps the latencies of so many, and no more
    await manager.stop()


@click.command(help=__doc__)
@shared_flags
@click.option("--at-once", default=64, show_default=True, help="Requests under way.")
@click.option("--rounds", default=5, show_default=True)
def main(
    json_file: Path | None, quick: bool, persist: bool, server_binary: Path | None, at_once: int, rounds: int
) -> None:
    del persist, server_binary  # the store is hardly measured here
    if quick:
        rounds = 2
    report = Report("manager", {"at_once": at_once, "rounds": rounds, "quick": quick})
    pairs, asked, kept = (20_000, 2_000, 100_000) if quick else (50_000, 10_000, 1_000_000)
    run(measure(report, rounds=rounds, pairs=pairs, asked=asked, at_once=at_once, kept=kept))
    report.finish(json_file)


if __name__ == "__main__":
    main()
