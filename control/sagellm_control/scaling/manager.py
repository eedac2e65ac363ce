"""Advice on how many engines the models want, and what starts and stops them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ..manager.load import ModelLoad
from ..types import EngineState
from .advice import Advice, ScalingLimits, advise
from .launcher import EngineLauncher

if TYPE_CHECKING:
    from ..manager import ControlPlaneManager

log = logging.getLogger(__name__)

DRAIN_S = 300.0
"""A drained engine that still runs something after this is stopped all the same."""
LOOK_EVERY_S = 0.1


class ScalingManager:
    """Recommends; with a launcher it also acts, when told to or in a loop of its own (``running``).

    Args:
        control_plane: whose engines.
        launcher: what starts and stops engines.
        limits: bounds and thresholds of all models.
    """

    def __init__(
        self,
        control_plane: ControlPlaneManager,
        launcher: EngineLauncher | None = None,
        limits: ScalingLimits | None = None,
    ) -> None:
        self._plane = control_plane
        self._launcher = launcher
        self.limits = limits or ScalingLimits()
        self._changed_at: dict[str, float] = {}
        self._drains: dict[str, asyncio.Task[None]] = {}

    def get_scaling_recommendations(self) -> dict[str, Any]:
        """Figures of all engines, and for each model what to do and why.

        ``models``: model id -> ``{change, reasons, ready, places, active, waiting, wait_ms, utilization,
        slo_miss_rate}``; ``change`` is the number of engines to add, or (negative) to take away.
        """
        engines = self._plane.list_engines()
        active = sum(engine.active_requests for engine in engines)
        advices = self.advise()
        models = {advice.model_id: _shown(advice) for advice in advices}
        said = [
            f"{advice.model_id}: {'add' if advice.change > 0 else 'remove'} {abs(advice.change)} "
            f"({'; '.join(advice.reasons)})"
            for advice in advices
            if advice.change
        ]
        return {
            "total_engines": len(engines),
            "total_active_requests": active,
            "avg_load_per_engine": active / len(engines) if engines else 0.0,
            "recommendation": "; ".join(said) or "No change",
            "scale_up_suggested": any(advice.change > 0 for advice in advices),
            "scale_down_suggested": any(advice.change < 0 for advice in advices),
            "models": models,
        }

    def advise(self) -> list[Advice]:
        """What to do about each model."""
        now = time.monotonic()
        return [
            advise(self._with_own(load), self.limits, now - self._changed_at.get(load.model_id, float("-inf")))
            for load in self._plane.get_load()
        ]

    def _with_own(self, load: ModelLoad) -> ModelLoad:
        """Engines that were started here are coming, however long they take to answer."""
        if self._launcher is None:
            return load
        engines = self._plane.get_engines_for_model(load.model_id)
        late = sum(engine.state == EngineState.ERROR and self._launcher.owns(engine.engine_id) for engine in engines)
        return replace(load, coming=load.coming + late)

    async def scale_up(self, model_id: str, num_instances: int = 1, instance_type: str = "general") -> list[str]:
        """Start engines and register them; their ids.

        Raises:
            NotImplementedError: there is no launcher.
            TypeError, ValueError: ``num_instances`` is no whole number, or below 1.
        """
        if self._launcher is None:
            raise NotImplementedError(
                "TODO for whoever set this up: scale_up needs a launcher; give one, "
                "e.g. ScalingManager(control_plane, ProcessLauncher('vllm serve {model} --port {port}'))"
            )
        wanted = _at_least_one("num_instances", num_instances)
        try:
            return [await self._start(self._launcher, model_id, instance_type) for _ in range(wanted)]
        finally:
            # What went wrong has to cool down too, or the loop would try it again at once and for ever.
            self._changed_at[model_id] = time.monotonic()

    async def _start(self, launcher: EngineLauncher, model_id: str, instance_type: str) -> str:
        engine = await launcher.launch(model_id, instance_type)
        try:
            self._plane.register_engine(
                engine.engine_id, model_id, engine.host, engine.port, metadata=dict(engine.metadata)
            )
        except Exception:
            await launcher.stop(engine.engine_id)  # nobody else knows of it
            raise
        return engine.engine_id

    async def scale_down(self, engine_ids: list[str], graceful: bool = True) -> list[str]:
        """Take engines away; the ids of those that there were.

        Graceful: they are DRAINING, and one that was started here is stopped when it is empty. Else they are
        unregistered, and stopped, at once.

        Raises:
            TypeError: ``engine_ids`` is no list.
        """
        handled: list[str] = []
        for engine_id in _ids(engine_ids):
            engine = self._plane.get_engine(engine_id)
            if engine is None:
                continue
            handled.append(engine_id)
            self._changed_at[engine.model_id] = time.monotonic()
            owned = self._launcher is not None and self._launcher.owns(engine_id)
            if not graceful:
                self._plane.unregister_engine(engine_id)
                if owned:
                    await self._stop(engine_id)
                continue
            self._plane.update_engine_state(engine_id, EngineState.DRAINING)
            if owned and engine_id not in self._drains:
                task = asyncio.create_task(self._drain(engine_id), name=f"drain {engine_id}")
                self._drains[engine_id] = task
                task.add_done_callback(lambda _task, name=engine_id: self._drains.pop(name, None))
        return handled

    @asynccontextmanager
    async def running(self, interval_s: float = 5.0) -> AsyncGenerator[None, None]:
        """Follow the advice every so often (s). Raises NotImplementedError if there is no launcher."""
        if self._launcher is None:
            raise NotImplementedError("a control loop needs a launcher: give ScalingManager one")
        stop = asyncio.Event()
        loop = asyncio.create_task(self._follow(interval_s, stop), name="scaling")
        try:
            yield
        finally:
            stop.set()  # not cancelled: an engine that is just being started would be lost
            await asyncio.wait({loop})
            await self.close()

    async def close(self) -> None:
        """Stop what is being drained, at once."""
        drains = list(self._drains.items())
        for _, task in drains:
            task.cancel()
        if drains:
            await asyncio.wait({task for _, task in drains})
        for engine_id, _ in drains:
            self._plane.unregister_engine(engine_id)
            await self._stop(engine_id)

    async def step(self) -> list[Advice]:
        """Follow the advice once; what was done."""
        followed: list[Advice] = []
        for advice in self.advise():
            if advice.change > 0:
                await self.scale_up(advice.model_id, advice.change)
            elif advice.change < 0 and not await self.scale_down(self._spare(advice.model_id, -advice.change)):
                continue
            if advice.change:
                log.info("model %s: %+d engines: %s", advice.model_id, advice.change, "; ".join(advice.reasons))
                followed.append(advice)
        return followed

    def _spare(self, model_id: str, count: int) -> list[str]:
        """The emptiest of the engines that were started here."""
        assert self._launcher is not None
        engines = [
            engine
            for engine in self._plane.get_engines_for_model(model_id)
            if engine.state == EngineState.READY and self._launcher.owns(engine.engine_id)
        ]
        return [engine.engine_id for engine in sorted(engines, key=lambda engine: engine.active_requests)[:count]]

    async def _follow(self, interval_s: float, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self.step()
            except Exception:
                log.exception("cannot scale; trying again in %g s", interval_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await stop.wait()

    async def _drain(self, engine_id: str) -> None:
        try:
            async with asyncio.timeout(DRAIN_S):
                while self._busy(engine_id):  # noqa: ASYNC110 - the manager tells nobody when an engine is empty
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            log.warning("engine %s: still busy after %g s of draining", engine_id, DRAIN_S)
        self._plane.unregister_engine(engine_id)
        await self._stop(engine_id)

    def _busy(self, engine_id: str) -> bool:
        engine = self._plane.get_engine(engine_id)
        return engine is not None and engine.active_requests > 0

    async def _stop(self, engine_id: str) -> None:
        assert self._launcher is not None
        await self._launcher.stop(engine_id)


def _at_least_one(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")
    return value


def _ids(value: object) -> list[str]:
    # A string is iterable too: each of its characters would be an id that nobody has.
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"engine_ids must be a list of engine ids, not {value!r}")
    return list(cast(Iterable[str], value))


def _shown(advice: Advice) -> dict[str, Any]:
    load = advice.load
    assert load is not None
    used = (load.active + load.waiting) / load.places if load.places else 0.0
    return {
        "change": advice.change,
        "reasons": advice.reasons,
        "ready": load.ready,
        "places": load.places,
        "active": load.active,
        "waiting": load.waiting,
        "wait_ms": round(load.wait_ms, 1),
        "utilization": round(used, 3),
        "slo_miss_rate": round(load.slo_miss_rate, 4),
    }
