"""Everything on one machine: which processes ``up`` starts, with which settings, and when they are ready."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import orjson
from redis.exceptions import RedisError

from sagellm_workers.serving.rows_of_engine import engine_id

from ..embedded import EmbeddedValkey, free_port, require_free
from ..embedded.http_probe import get
from ..embedded.ports import LOOPBACK
from ..settings import CONFIG_VARIABLE, Loaded, env_name
from ..store.connect import Store, open_store
from ..store.views import EngineView, list_engines
from ..wire.states import EngineState
from .child import Child
from .kept_ports import KeptPorts
from .log_file import LogFile
from .supervisor import ServiceDied, Supervisor
from .up_checks import WILDCARDS, require_that_it_can_work

_LOOK_EVERY_S = 0.05
"""Between two looks at whether something is ready: once at the start, so it costs nothing later."""

_ENGINE_EVERY_S = 1.0
"""Between two looks for an engine that takes its time, e.g. to load a model."""

_EXIT_S = 10.0
"""From the end of the last answer, or of the patience with it, to the end of the process: its client is told, and Redis
is, which takes some seconds where they do not listen."""


class UpError(RuntimeError):
    """The system could not be brought up; the message says why."""


class Stage(IntEnum):
    """The order of stopping is from the bottom to the top: who brings work in goes first."""

    STORE = 0
    ENGINE = 1
    SCHEDULER = 2
    WORKER = 3
    GATEWAY = 4


@dataclass(frozen=True)
class Running:
    """A system that is up."""

    gateway_url: str
    redis_url: str
    namespace: str
    engines: list[EngineView]
    """Rows of those of ours that are READY, one for each of their models; maybe none yet."""
    drained: list[EngineView]
    """Rows of those of ours that somebody has drained, maybe before they were started."""
    urls: list[str]
    """Of all engines that were asked for."""

    @property
    def models(self) -> list[str]:
        """What is served now."""
        return sorted({view.pool for view in self.engines})

    @property
    def ready(self) -> int:
        """How many of the engines are READY."""
        return len({view.engine_id for view in self.engines})


class System:
    """The processes of one machine.

    Args:
        loaded: the settings; the children get them through their environment.
        tell: gets each line for the terminal.
    """

    def __init__(self, loaded: Loaded, tell: Callable[[str], None]) -> None:
        self._settings = loaded.settings
        self._loaded = loaded
        self._tell = tell
        self._folder = self._settings.up.data_dir.absolute()
        self._logs_folder = self._folder / "logs"
        self._ports = KeptPorts(self._folder)
        self._files = ExitStack()
        settings = loaded.settings
        self._host = settings.gateway.host
        self._port = settings.gateway.port or free_port(self._host)
        # Answers that are still open get the time that the processes themselves were told to give them.
        stop_within_s = max(
            settings.up.stop_within_s,
            settings.gateway.shutdown_s + _EXIT_S,
            settings.worker.drain_s + _EXIT_S,
        )
        self._supervisor = Supervisor(tell, stop_within_s=stop_within_s)

    def kill(self) -> None:
        """End all processes at once."""
        self._supervisor.kill()

    @asynccontextmanager
    async def up(self) -> AsyncGenerator[Running]:
        """Bring everything up; the end of the context stops it in order.

        Raises:
            SettingsError, PortInUseError: see ``up_checks``.
            UpError: it could not be brought up within the time allowed.
        """
        require_that_it_can_work(self._loaded, self._host, self._port)
        with self._files:
            async with self._supervisor:
                starting = asyncio.create_task(self._start(), name="start")
                dying = asyncio.create_task(self._supervisor.died(), name="death")
                try:
                    await asyncio.wait({starting, dying}, return_when=asyncio.FIRST_COMPLETED)
                    if not starting.done():
                        await dying
                    running = await starting
                except ServiceDied as error:
                    raise UpError(str(error)) from None
                finally:
                    for task in (starting, dying):
                        task.cancel()
                    await asyncio.wait({starting, dying})
                self._supervisor.keep_alive()
                yield running

    async def wait_for_engines(self, running: Running) -> list[EngineView]:
        """Wait, as long as it takes, until some engine of ours is READY."""
        redis = self._settings.redis.model_copy(update={"url": running.redis_url})
        ready: list[EngineView] = []
        async with open_store(redis, check=False) as store:
            while not ready:
                await asyncio.sleep(_ENGINE_EVERY_S)
                try:
                    ready, _ = await _served_engines(store, running.urls)
                except (RedisError, OSError):
                    continue  # it is being started again
        return ready

    async def _start(self) -> Running:
        try:
            self._logs_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UpError(f"data folder {self._folder}: {error.strerror}; choose another with --data-dir") from None
        redis_url = await self._store_url()
        base = self._environment(redis_url)
        engines = list(dict.fromkeys(self._settings.worker.engine))
        if not engines:
            engines = [await self._simulated_engine(base)]
        elif ("engine", "models") in self._loaded.origins:
            base[env_name("worker", "model")] = orjson.dumps(self._settings.engine.models).decode()
        self._ports.keep()
        for number in range(self._settings.up.schedulers):
            await self._child(Stage.SCHEDULER, "scheduler", self._one_of(base, "scheduler", number), number + 1)
        workers = self._settings.up.workers
        for number in range(workers):
            its = {env_name("worker", "engine"): orjson.dumps(engines[number::workers]).decode()}
            environment = {**self._one_of(base, "worker", number), **its}
            await self._child(Stage.WORKER, "worker", environment, number + 1 if workers > 1 else None)
        await self._child(Stage.GATEWAY, "gateway", base)
        return await self._ready(redis_url, engines)

    async def _store_url(self) -> str:
        """The URL of the server to use: the given one if there is one, else the embedded one's."""
        if ("redis", "url") in self._loaded.origins:
            async with open_store(self._settings.redis):
                return self._settings.redis.url
        valkey = EmbeddedValkey(
            self._folder / "valkey",
            port=self._ports.take("valkey", self._settings.up.valkey_port),
            log_file=self._logs_folder / "valkey.log",
        )
        await self._supervisor.start(Stage.STORE, valkey)
        return valkey.url

    def _environment(self, redis_url: str) -> dict[str, str]:
        """Our own environment, and what our flags say, for all children."""
        environment = dict(os.environ)
        if self._loaded.config is not None:
            environment[CONFIG_VARIABLE] = str(self._loaded.config.absolute())
        for (section, field), origin in self._loaded.origins.items():
            if origin.kind == "flag":
                chosen: Any = getattr(getattr(self._settings, section), field)
                text = chosen if isinstance(chosen, str | Path) else orjson.dumps(chosen).decode()
                environment[env_name(section, field)] = str(text)
        environment[env_name("gateway", "port")] = str(self._port)
        environment[env_name("redis", "url")] = redis_url
        return environment

    def _one_of(self, base: Mapping[str, str], section: str, number: int) -> dict[str, str]:
        """For one of several processes of a kind: its metrics are on the port that is set, or on one after it."""
        port = getattr(self._settings, section).metrics_port
        return {**base, env_name(section, "metrics_port"): str(port + number if port else 0)}

    async def _simulated_engine(self, base: Mapping[str, str]) -> str:
        port = self._settings.engine.port if ("engine", "port") in self._loaded.origins else 0
        port = port or self._ports.take("engine")
        require_free(LOOPBACK, port, env_name("engine", "port"))
        here = {env_name("engine", "host"): LOOPBACK, env_name("engine", "port"): str(port)}
        await self._child(Stage.ENGINE, "engine", {**base, **here})
        return f"http://{LOOPBACK}:{port}"

    async def _child(
        self, stage: Stage, command: str, environment: Mapping[str, str], number: int | None = None
    ) -> None:
        name = command if number is None else f"{command}-{number}"
        log = LogFile(self._logs_folder / f"{name}.log")
        self._files.callback(log.close)
        words = [sys.executable, "-m", "sagellm_control", command]
        await self._supervisor.start(stage, Child(name, words, environment, log, self._tell))

    async def _ready(self, redis_url: str, engines: Sequence[str]) -> Running:
        """Wait for the gateway, and for an engine; a gateway without engines may still get some later."""
        host = WILDCARDS.get(self._host, self._host)
        redis = self._settings.redis.model_copy(update={"url": redis_url})
        status, ready, drained, said = 0, list[EngineView](), list[EngineView](), b"no answer"
        asked = set(map(engine_id, engines))
        within_s = self._settings.up.ready_within_s
        try:
            async with asyncio.timeout(within_s), open_store(redis) as store:
                # That all of them are drained is said, and not waited for: who did it may be gone.
                while status != 200 or not (ready or {view.engine_id for view in drained} == asked):
                    if status != 200:
                        status, said = await get(host, self._port, "/ready")
                    ready, drained = await _served_engines(store, engines)
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError:
            if status != 200:
                raise UpError(
                    f"the gateway was not ready within {within_s:g} s "
                    f"({status}: {said.decode(errors='replace')}); see {self._logs_folder}"
                ) from None
        return Running(
            gateway_url=f"http://{f'[{host}]' if ':' in host else host}:{self._port}",
            redis_url=redis_url,
            namespace=redis.namespace,
            engines=ready,
            drained=drained,
            urls=list(engines),
        )


async def _served_engines(store: Store, urls: Sequence[str]) -> tuple[list[EngineView], list[EngineView]]:
    """Of those asked for that some worker serves now, the READY ones and the drained ones: the Redis may hold others'
    engines too, and a run that was killed leaves rows that say READY until the lease lapses."""
    asked = set(map(engine_id, urls))  # and not the URL: each machine has a loopback of its own
    views = [view for view in await list_engines(store) if view.engine_id in asked and (view.lease_s or 0) > 0]
    return [view for view in views if view.state is EngineState.READY], [view for view in views if view.drained]
