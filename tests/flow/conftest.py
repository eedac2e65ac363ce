"""What the flow tests share: simulated engines, engines that answer as a test tells them, and systems of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import orjson
import pytest

from sagellm_control.client import QueueClient
from sagellm_control.gateway.settings import GatewaySettings
from sagellm_control.scheduler.settings import SchedulerSettings
from sagellm_control.simulated_engine import SimulatedEngineSettings
from sagellm_control.simulated_engine.process import serve
from sagellm_control.store.settings import RedisSettings
from sagellm_workers.settings import WorkerSettings

from ..waiting import wait_until
from .echo_engine import EchoEngine
from .in_process import GATEWAY, SCHEDULER, WORKER, InProcessSystem, in_process_system

# As fast as Python.
FREE: dict[str, Any] = {"prefill_tokens_per_s": 0, "tpot_ms": 0, "tpot_per_running_ms": 0}
GOOD = b'{"good":true}'
# The first token comes at once, the second one never.
ENDLESS: dict[str, Any] = {"prefill_tokens_per_s": 0, "tpot_ms": 3_600_000, "tpot_per_running_ms": 0}


@dataclass
class SimulatedEngine:
    """A simulated engine, and what it says about itself."""

    url: str
    session: aiohttp.ClientSession

    async def state(self) -> dict[str, Any]:
        """See ``simulated_engine.inspection``: running, waiting, aborted, finished, total_requests …"""
        async with self.session.get(f"{self.url}/simulated/state") as response:
            return orjson.loads(await response.read())

    async def until(self, **expected: int) -> dict[str, Any]:
        """Wait until its state has these values."""

        async def has() -> dict[str, Any] | None:
            state = await self.state()
            return state if all(state[name] == value for name, value in expected.items()) else None

        return await wait_until(has, what=f"engine state {expected}")

    async def faults(self, **faults: float) -> None:
        """Change which faults it makes."""
        async with self.session.post(f"{self.url}/simulated/faults", json=faults) as response:
            assert response.status == 200, await response.text()


class StartEngine(Protocol):
    def __call__(self, **settings: Any) -> Awaitable[SimulatedEngine]: ...


class StartEcho(Protocol):
    def __call__(self, *, slots: int = 4) -> Awaitable[EchoEngine]: ...


class StartSystem(Protocol):
    def __call__(
        self,
        *engines: SimulatedEngine | EchoEngine | str,
        gateways: int = 1,
        schedulers: int = 1,
        roles: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Awaitable[InProcessSystem]: ...


@pytest.fixture
async def start_engine() -> AsyncGenerator[StartEngine, None]:
    """Start simulated engines; they cost nothing unless the settings say otherwise."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def start(**settings: Any) -> SimulatedEngine:
            chosen = SimulatedEngineSettings.model_validate({"port": 0, **FREE, **settings})
            return SimulatedEngine(await stack.enter_async_context(serve(chosen)), session)

        yield start


@pytest.fixture
async def busy_engine(start_engine: StartEngine) -> SimulatedEngine:
    """It has one slot, and whoever has it keeps it."""
    return await start_engine(slots=1, **ENDLESS)


@pytest.fixture
async def start_echo() -> AsyncGenerator[StartEcho, None]:
    """Start engines that answer what the test tells them."""
    async with AsyncExitStack() as stack:

        async def start(*, slots: int = 4) -> EchoEngine:
            return await stack.enter_async_context(EchoEngine(slots=slots))

        yield start


@pytest.fixture
async def bad(start_echo: StartEcho) -> EchoEngine:
    """An engine whose failures the test chooses."""
    return await start_echo()


@pytest.fixture
async def good(start_echo: StartEcho) -> EchoEngine:
    """Another one, which answers ``GOOD``."""
    engine = await start_echo()
    engine.answer(GOOD)
    return engine


@pytest.fixture
async def start_system(redis_settings: RedisSettings) -> AsyncGenerator[StartSystem, None]:
    """Start the system in front of some engines.

    ``gateway_…``, ``worker_…`` and ``scheduler_…`` are settings of the sections of that name.
    """
    async with AsyncExitStack() as stack:

        async def start(
            *engines: SimulatedEngine | EchoEngine | str,
            gateways: int = 1,
            schedulers: int = 1,
            roles: Mapping[str, str] | None = None,
            **settings: Any,
        ) -> InProcessSystem:
            return await stack.enter_async_context(
                in_process_system(
                    redis_settings,
                    [engine if isinstance(engine, str) else engine.url for engine in engines],
                    gateway=GatewaySettings.model_validate(GATEWAY.model_dump() | _section(settings, "gateway")),
                    worker=WorkerSettings.model_validate(WORKER.model_dump() | _section(settings, "worker")),
                    scheduler=SchedulerSettings.model_validate(
                        SCHEDULER.model_dump() | _section(settings, "scheduler")
                    ),
                    gateways=gateways,
                    schedulers=schedulers,
                    roles=roles,
                )
            )

        yield start


# For modules that have an ``engine`` or a ``system`` of their own.


@pytest.fixture
async def two_gateways(engine: SimulatedEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(engine, gateways=2)


@pytest.fixture
async def queue(redis_settings: RedisSettings, system: InProcessSystem) -> AsyncGenerator[QueueClient, None]:
    # The system is there first, so that the client does not have to look twice.
    assert system.engines
    async with QueueClient.connect(redis_settings) as queue:
        yield queue


def _section(settings: dict[str, Any], name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}_"): value for key, value in settings.items() if key.startswith(f"{name}_")}
