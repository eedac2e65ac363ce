"""Watches whether engines answer, and drains them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from .engine_client import EngineClient
from .types import EngineInfo, EngineState

log = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 3.0
DRAIN_LOOK_S = 0.05
"""How soon a drained engine is noticed."""
SHORTEST_INTERVAL_S = 0.01

StateChange = Callable[[str, EngineState, EngineState], None]


class EngineLifecycleManager:
    """Probes each engine by itself: at once, then every interval. An engine in ERROR comes back when it answers.

    Args:
        max_consecutive_failures: so many failed probes in a row make an ERROR.
        auto_restart: kept for programs that set it; a control plane does not own the processes of its engines.
        on_state_change: called with engine id, old and new state; its exceptions are logged.
    """

    def __init__(
        self,
        health_check_interval_s: float = 10.0,
        max_consecutive_failures: int = 3,
        auto_restart: bool = False,
        on_state_change: StateChange | None = None,
    ) -> None:
        self.health_check_interval_s = health_check_interval_s
        self.max_consecutive_failures = max_consecutive_failures
        self.auto_restart = auto_restart
        self.on_state_change = on_state_change
        self._engines: dict[str, EngineInfo] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._suspected: dict[str, asyncio.Event] = {}
        self._client = EngineClient()
        self._running = False

    @property
    def is_running(self) -> bool:
        """Whether engines are watched."""
        return self._running

    def register(self, engine: EngineInfo) -> None:
        """Watch an engine; one of the same id is replaced."""
        self.unregister(engine.engine_id)
        self._engines[engine.engine_id] = engine
        if self._running:
            self._watch(engine)

    def unregister(self, engine_id: str) -> None:
        """Watch it no more."""
        self._engines.pop(engine_id, None)
        self._suspected.pop(engine_id, None)
        if watch := self._watches.pop(engine_id, None):
            watch.cancel()

    async def start(self) -> None:
        """Watch, until ``stop``."""
        if self._running:
            return
        self._running = True
        for engine in self._engines.values():
            self._watch(engine)

    async def stop(self) -> None:
        """Watch no more; the states stay as they are."""
        self._running = False
        watches = list(self._watches.values())
        self._watches.clear()
        self._suspected.clear()
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        await self._client.close()

    async def check_health(self, engine: EngineInfo) -> bool:
        """One probe, of 3 s at most; changes nothing."""
        instance = engine.metadata.get("engine_instance") if engine.metadata else None
        if instance is None:
            return await self._client.healthy(engine, CHECK_TIMEOUT_S)
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return bool(await instance.health_check())
        except Exception as error:
            log.warning("engine %s: its health check failed: %r", engine.engine_id, error)
            return False

    def suspect(self, engine_id: str) -> None:
        """Somebody could not reach the engine: probe it now, and believe it if it does not answer."""
        if event := self._suspected.get(engine_id):
            event.set()

    async def drain_engine(self, engine_id: str, timeout_s: float = 30.0) -> bool:
        """Give it nothing new, and stop it when nothing is active; False: unknown, or not within the time (s)."""
        engine = self._engines.get(engine_id)
        if engine is None:
            return False
        self._change(engine, EngineState.DRAINING)
        try:
            async with asyncio.timeout(timeout_s):
                while engine.active_requests > 0:  # noqa: ASYNC110 - programs count it down by hand
                    await asyncio.sleep(DRAIN_LOOK_S)
        except TimeoutError:
            return False
        self._change(engine, EngineState.STOPPED)
        return True

    def _watch(self, engine: EngineInfo) -> None:
        suspected = self._suspected[engine.engine_id] = asyncio.Event()
        self._watches[engine.engine_id] = asyncio.create_task(
            self._probe(engine, suspected), name=f"health {engine.engine_id}"
        )

    async def _probe(self, engine: EngineInfo, suspected: asyncio.Event) -> None:
        while True:
            if engine.state != EngineState.STOPPED:
                at_once = suspected.is_set()
                suspected.clear()
                healthy = await self.check_health(engine)
                self._note(engine, healthy, at_once=at_once)
            try:
                async with asyncio.timeout(max(SHORTEST_INTERVAL_S, self.health_check_interval_s)):
                    await suspected.wait()
            except TimeoutError:
                pass

    def _note(self, engine: EngineInfo, healthy: bool, *, at_once: bool) -> None:
        if engine.state == EngineState.STOPPED:
            return  # meanwhile
        if healthy:
            engine.consecutive_failures = 0
            engine.last_heartbeat = datetime.now(UTC)
            if engine.state in (EngineState.STARTING, EngineState.ERROR):
                self._change(engine, EngineState.READY)
            return
        engine.consecutive_failures += 1
        if engine.state == EngineState.ERROR:
            return
        if at_once or engine.consecutive_failures >= self.max_consecutive_failures:
            self._change(engine, EngineState.ERROR)

    def _change(self, engine: EngineInfo, state: EngineState) -> None:
        before = engine.state
        if before == state:
            return
        engine.state = state
        log.info("engine %s: %s, was %s", engine.engine_id, state, before)
        if self.on_state_change is not None:
            try:
                self.on_state_change(engine.engine_id, before, state)
            except Exception:
                log.exception("engine %s: on_state_change failed", engine.engine_id)
