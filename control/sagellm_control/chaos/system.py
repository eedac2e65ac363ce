"""The system under test: real processes of the real command line, on loopback, in one folder."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from ..embedded import LOOPBACK, free_port
from ..embedded.http_probe import get
from ..store.connect import Store, open_store
from ..store.settings import RedisSettings
from ..store.views import list_engines
from ..wire.states import EngineState
from .plan import MAX_ATTEMPTS, POOL, PREFETCH, PREFILL_TOKENS_PER_S, SLOTS, TPOT_MS, ChaosPlan
from .process import CommandProcess, Kind, ValkeyProcess, Victim

READY_WITHIN_S = 60.0
"""For all processes together; each takes about a second of one core."""
STOP_WITHIN_S = 15.0
"""A process that has not ended so long after SIGTERM is stuck."""
SHUTDOWN_S = 3
"""What a gateway and a worker are told to give open answers."""
KEEPALIVE_S = 2
"""A stream is never silent for longer than this."""

STOP_ORDER = (Kind.GATEWAY, Kind.WORKER, Kind.SCHEDULER, Kind.ENGINE, Kind.VALKEY)
"""Who brings work in goes first."""


class System:
    """The processes, and where they are reached."""

    def __init__(self, plan: ChaosPlan, folder: Path) -> None:
        self._folder = folder
        ports = [free_port() for _ in range(1 + plan.engines + plan.gateways)]
        valkey = ValkeyProcess(folder / "valkey", ports.pop())
        self.redis = RedisSettings(url=valkey.url)
        self.valkey = Victim(Kind.VALKEY, 1, valkey, folder / "valkey" / "valkey.log")
        engine_ports = [ports.pop() for _ in range(plan.engines)]
        gateway_ports = [ports.pop() for _ in range(plan.gateways)]
        redis = ("--redis-url", valkey.url)
        lease = ("--lease-s", f"{plan.lease_s:g}", "--drain-s", f"{SHUTDOWN_S}", "--prefetch", f"{PREFETCH}")
        # The budget for retries would end answers whose engines are killed too often; that it does is tested elsewhere.
        lease += ("--retry-share", "20", "--max-attempts", f"{MAX_ATTEMPTS}")
        # Every engine has a worker that stands by: the next one of the circle.
        engines = [f"http://{LOOPBACK}:{port}" for port in engine_ports]
        served = [
            dict.fromkeys((engines[n % len(engines)], engines[(n + 1) % len(engines)])) for n in range(plan.workers)
        ]
        speed = ("--slots", f"{SLOTS}", "--tpot-ms", f"{TPOT_MS}", "--model", POOL)
        speed += ("--prefill-tokens-per-s", f"{PREFILL_TOKENS_PER_S}")
        self.keep_s = 600 + round(plan.seconds + 3 * plan.settle_s)
        """For how long (s) results are kept: every answer is read once more at the end."""
        http = ("--shutdown-s", f"{SHUTDOWN_S}", "--keepalive-s", f"{KEEPALIVE_S}", "--result-ttl-s", f"{self.keep_s}")
        self.ports = {f"{Kind.GATEWAY}-{n + 1}": port for n, port in enumerate(gateway_ports)}
        """Of the gateways, by their names."""
        self.gateway_urls = {name: f"http://{LOOPBACK}:{port}" for name, port in self.ports.items()}
        self.engine_urls = engines
        self.victims = [
            self.valkey,
            *self._commands(Kind.ENGINE, [("--port", f"{port}", *speed) for port in engine_ports]),
            *self._commands(Kind.SCHEDULER, [redis] * plan.schedulers),
            *self._commands(Kind.WORKER, [(*redis, *lease, *_flags("--engine", urls)) for urls in served]),
            *self._commands(Kind.GATEWAY, [(*redis, *http, "--port", f"{port}") for port in gateway_ports]),
        ]

    def of(self, kind: Kind) -> list[Victim]:
        """All processes of a kind."""
        return [victim for victim in self.victims if victim.kind is kind]

    def crashed(self) -> list[Victim]:
        """Processes that have ended although nobody ended them."""
        return [victim for victim in self.victims if victim.exit_code is not None and not victim.busy]

    async def wait_until_ready(self, store: Store) -> None:
        """Wait until every engine and every gateway is ready.

        Raises:
            TimeoutError: they were not in time.
        """
        wanted = {*self.engine_urls, *self.gateway_urls.values()}
        ready: set[str] = set()
        async with asyncio.timeout(READY_WITHIN_S):
            while not ready >= wanted:
                if dead := self.crashed():
                    raise SystemDidNotStart(f"{dead[0].name} ended: {last_line(dead[0].log)}")
                ready = {view.url for view in await list_engines(store) if view.state is EngineState.READY}
                for name, port in self.ports.items():
                    status, _ = await get(LOOPBACK, port, "/ready")
                    if status == 200:
                        ready.add(self.gateway_urls[name])
                await asyncio.sleep(0.1)

    async def start(self) -> None:
        """Start all processes, Valkey first."""
        for victim in self.victims:
            await victim.start()

    async def stop(self) -> list[str]:
        """Stop all processes in order; the names of those that had to be killed."""
        late: list[str] = []
        for kind in STOP_ORDER:
            group = self.of(kind)
            for victim in group:
                victim.busy = True
                victim.signal(signal.SIGCONT)
            ended = await asyncio.gather(*(victim.stop(STOP_WITHIN_S) for victim in group))
            late += [victim.name for victim, in_time in zip(group, ended, strict=True) if not in_time]
        return late

    def _commands(self, kind: Kind, flags: Sequence[Sequence[str]]) -> list[Victim]:
        victims: list[Victim] = []
        for number, words in enumerate(flags, start=1):
            log = self._folder / f"{kind}-{number}.log"
            victims.append(Victim(kind, number, CommandProcess([kind, *words], log), log))
        return victims


_ERROR = re.compile(r"(?:ERROR|CRITICAL) .*|^Traceback .*|.*never retrieved.*|.*never awaited.*")


class SystemDidNotStart(RuntimeError):
    """The system under test could not be brought up; the text says what failed."""


@asynccontextmanager
async def running_system(
    plan: ChaosPlan, folder: Path, tell: Callable[[str], None]
) -> AsyncGenerator[tuple[System, Store], None]:
    """The whole system, ready, and a store to look into; at the end all of it is stopped in order.

    Raises:
        SystemDidNotStart: says which process failed, and with what.
    """
    system = System(plan, folder)
    try:
        began = time.monotonic()
        await system.start()
        async with open_store(system.redis) as store:
            try:
                await system.wait_until_ready(store)
            except TimeoutError:
                raise SystemDidNotStart(f"not all processes were ready within {READY_WITHIN_S:g} s") from None
            tell(f"{len(system.victims)} processes are ready after {time.monotonic() - began:.1f} s")
            yield system, store
    finally:
        if late := await system.stop():
            tell(f"had to be killed at the end: {', '.join(late)}")


def last_line(log: Path) -> str:
    """The last line of a log."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def errors_logged(folder: Path) -> list[str]:
    """Every kind of error in the processes' logs, with how often it came: none of them minds its neighbours' end."""
    found: Counter[str] = Counter()
    for log in sorted(folder.glob("*.log")):
        with log.open(errors="replace") as lines:
            found.update(f"{log.stem} logged: {match[0]}" for line in lines if (match := _ERROR.search(line)))
    return [f"{said} ({count} times)" for said, count in sorted(found.items())]


def _flags(name: str, values: Sequence[str] | dict[str, None]) -> list[str]:
    return [word for value in values for word in (name, value)]
