"""The system under test: Valkey, gateway, scheduler, worker and simulated engines, each a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from sagellm_control.embedded import EmbeddedValkey, free_port
from sagellm_control.embedded.http_probe import get

from .process import BenchmarkFailed, MeasuredProcess, cpu_s

HOST = "127.0.0.1"
MODEL = "simulated-1"
ENGINE_SLOTS = 256
"""More than requests at once: nothing waits for a slot."""
UNTIMED_ENGINE = (
    *("--prefill-tokens-per-s", "0", "--tpot-ms", "0", "--tpot-per-running-ms", "0"),
    *("--slots", str(ENGINE_SLOTS)),
)
"""Flags of a simulated engine that never sleeps."""
READY_WITHIN_S = 120.0
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Plan:
    """What to start."""

    engine_flags: Sequence[str] | None
    """Of the simulated engines; None: free engines (``free_engine.py``) instead."""
    engines: int = 1
    schedulers: int = 1
    scheduler_flags: Sequence[str] = ()
    persist: bool = False
    server_binary: Path | None = None
    under: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """Process -> the command that runs it, for one that is to be looked into."""
    redis_timeout_s: float | None = None
    """Longest wait for an answer of Redis; None: the default."""
    bare_chain: bool = False
    """Start ``bare_chain.py`` as well, in front of the first engine."""


@dataclass
class System:
    """What runs."""

    redis_url: str
    gateway: int
    """Port."""
    engines: list[int]
    """Ports."""
    bare_gateway: int
    """Port; 0: there is none."""
    processes: dict[str, MeasuredProcess]
    valkey_pid: int
    _cpu_before: dict[str, float] = field(default_factory=dict[str, float])

    def check(self) -> None:
        """See that all of it still runs.

        Raises:
            ProcessDied: names the process that does not.
        """
        for process in self.processes.values():
            process.check()

    def mark_cpu(self) -> None:
        """Begin to count CPU time."""
        self._cpu_before = self._cpu()

    def cpu_since_mark(self) -> dict[str, float]:
        """CPU time (s) that each process has used since the mark; ``client`` is this one."""
        return {name: now - self._cpu_before.get(name, 0.0) for name, now in self._cpu().items()}

    def complaints(self) -> list[str]:
        """Everything that the processes logged at warning level or above."""
        return [f"{p.name} | {line}" for p in self.processes.values() for line in p.log_lines()]

    def _cpu(self) -> dict[str, float]:
        pids = {name: process.pid for name, process in self.processes.items()}
        return {name: cpu_s(pid) for name, pid in (pids | {"valkey": self.valkey_pid, "client": os.getpid()}).items()}


@asynccontextmanager
async def running(plan: Plan) -> AsyncIterator[System]:
    """Start everything, wait until the gateway offers the model, and end it all afterwards.

    Raises:
        BenchmarkFailed: it does not come up, or a part of it has ended.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sagellm-benchmark-")))
        valkey = EmbeddedValkey(folder / "valkey", persist=plan.persist, binary=plan.server_binary)
        await stack.enter_async_context(valkey)
        redis = ["--redis-url", valkey.url]
        if plan.redis_timeout_s is not None:
            redis += ["--redis-command-timeout-s", f"{plan.redis_timeout_s:g}"]
        processes: dict[str, MeasuredProcess] = {}

        async def start(name: str, arguments: Sequence[str]) -> None:
            process = MeasuredProcess.control(name, arguments, folder, under=plan.under.get(name, ()))
            processes[name] = await stack.enter_async_context(process)

        async def start_module(name: str, module: str, *arguments: object) -> None:
            command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
            process = MeasuredProcess(name, command, folder / f"{name}.log", os.environ)
            processes[name] = await stack.enter_async_context(process)

        def numbered(name: str, number: int, of: int) -> str:
            return name if of == 1 else f"{name}-{number + 1}"

        engines = [free_port() for _ in range(plan.engines)]
        for i, port in enumerate(engines):
            name = numbered("engine", i, plan.engines)
            if plan.engine_flags is None:
                await start_module(name, "free_engine", port, MODEL)
            else:
                await start(name, ["engine", "--port", str(port), "--model", MODEL, *plan.engine_flags])
        for port in engines:
            # A worker that finds no engine yet would wait a second and log a warning.
            await _until(processes, lambda port=port: _answers(port))
        urls = [word for port in engines for word in ("--engine", f"http://{HOST}:{port}")]
        for i in range(plan.schedulers):
            await start(numbered("scheduler", i, plan.schedulers), ["scheduler", *plan.scheduler_flags, *redis])
        await start("worker", ["worker", *urls, *redis])
        gateway = free_port()
        await start("gateway", ["gateway", "--port", str(gateway), *redis])
        bare_gateway = 0
        if plan.bare_chain:
            bare_gateway = free_port()
            await start_module("bare-worker", "bare_chain", "worker", engines[0], valkey.url)
            await start_module("bare-gateway", "bare_chain", "gateway", bare_gateway, valkey.url)
            await _until(processes, lambda: _answers(bare_gateway))
        system = System(valkey.url, gateway, engines, bare_gateway, processes, valkey.pid)
        await _until(processes, lambda: _offers_model(gateway))
        yield system
        system.check()


async def _until(processes: Mapping[str, MeasuredProcess], ready: Callable[[], Awaitable[bool]]) -> None:
    give_up_at = time.monotonic() + READY_WITHIN_S
    while not await ready():
        for process in processes.values():
            process.check()
        if time.monotonic() > give_up_at:
            logs = "\n  ".join(line for process in processes.values() for line in process.log_lines())
            raise BenchmarkFailed(f"the system is not ready after {READY_WITHIN_S:g} s\n  {logs}")
        await asyncio.sleep(_LOOK_EVERY_S)


async def _answers(port: int) -> bool:
    status, _ = await get(HOST, port, "/health")
    return status == 200


async def _offers_model(port: int) -> bool:
    status, body = await get(HOST, port, "/v1/models")
    return status == 200 and any(model["id"] == MODEL for model in orjson.loads(body)["data"])
