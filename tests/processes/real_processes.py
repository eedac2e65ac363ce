"""The system as real processes of the command line, so that they can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from sagellm_control.embedded.ports import free_port
from sagellm_control.store.connect import Store, open_store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.views import EngineView, list_engines
from sagellm_control.wire.states import EngineState

from ..waiting import wait_until

READY_WITHIN_S = 30.0
STOPPED_WITHIN_S = 15.0


@dataclass
class RealProcess:
    """One process that a test started, and so may end."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        await self.process.wait()

    async def terminate(self) -> int:
        """SIGTERM; its exit code."""
        self.process.terminate()
        async with asyncio.timeout(STOPPED_WITHIN_S):
            return await self.process.wait()


@dataclass
class RealProcesses:
    """Processes that share one namespace on the test's server."""

    redis: RedisSettings
    store: Store
    session: aiohttp.ClientSession
    folder: Path
    started: list[RealProcess] = field(default_factory=list[RealProcess])

    async def start(self, command: str, *flags: str) -> RealProcess:
        """Start ``sagellm-control COMMAND FLAGS``."""
        name = f"{command}-{len(self.started)}"
        log = self.folder / f"{name}.log"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SAGELLM_CONTROL_")}
        settings = {
            "SAGELLM_CONTROL_REDIS_URL": self.redis.url,
            "SAGELLM_CONTROL_REDIS_NAMESPACE": self.redis.namespace,
        }
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "sagellm_control",
                command,
                *flags,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                cwd=self.folder,
                env=kept | settings,
            )
        started = RealProcess(name, process, log)
        self.started.append(started)
        return started

    async def engine(self, *flags: str) -> str:
        """A simulated engine; its URL, once it answers."""
        port = free_port()
        await self.start("engine", "--port", str(port), *flags)
        url = f"http://127.0.0.1:{port}"
        await wait_until(lambda: self.answers(f"{url}/health"), READY_WITHIN_S, what=f"engine {url} answers")
        return url

    async def worker(self, *engines: str, flags: Sequence[str] = ()) -> RealProcess:
        """A worker of these engines, once all of them are READY."""
        known = {view.url for view in await self.engines() if view.state is EngineState.READY}
        words = [word for url in engines for word in ("--engine", url)]
        worker = await self.start("worker", *words, *flags)
        if not set(engines) <= known:
            await self.until_ready(*engines)
        return worker

    async def gateway(self, *flags: str) -> tuple[RealProcess, str]:
        """A gateway and its URL, once it is ready."""
        port = free_port()
        gateway = await self.start("gateway", "--port", str(port), *flags)
        url = f"http://127.0.0.1:{port}"
        await wait_until(lambda: self.answers(f"{url}/ready"), READY_WITHIN_S, what=f"gateway {url} is ready")
        return gateway, url

    async def engines(self) -> list[EngineView]:
        """The engines as they stand in the store."""
        return await list_engines(self.store)

    async def until_ready(self, *urls: str) -> None:
        """Wait until all of these engines are READY."""

        async def ready() -> bool:
            return set(urls) <= {v.url for v in await self.engines() if v.state is EngineState.READY}

        await wait_until(ready, READY_WITHIN_S, what=f"{', '.join(urls)} are READY")

    async def engine_state(self, url: str) -> dict[str, int]:
        """What a simulated engine says of itself."""
        async with self.session.get(f"{url}/simulated/state") as answer:
            return await answer.json()

    async def answers(self, url: str) -> bool:
        """Whether a GET gives 200."""
        try:
            async with self.session.get(url) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def end_all(self) -> None:
        """End what still runs, clients of the store first."""
        alive = [p for p in reversed(self.started) if p.process.returncode is None]
        for process in alive:
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)
        for process in alive:
            try:
                async with asyncio.timeout(STOPPED_WITHIN_S):
                    await process.process.wait()
            except TimeoutError:
                await process.kill()
                raise AssertionError(f"{process.name} did not stop; its log: {process.log.read_text()}") from None


@asynccontextmanager
async def real_processes(redis: RedisSettings, folder: Path) -> AsyncGenerator[RealProcesses, None]:
    """An empty set of processes; whatever was started is ended."""
    async with open_store(redis) as store, aiohttp.ClientSession() as session:
        processes = RealProcesses(redis, store, session, folder)
        try:
            yield processes
        finally:
            await processes.end_all()
