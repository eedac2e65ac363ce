"""Engines that workers serve by themselves, without a registration, as a manager sees and uses them."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from sagellm_control import ControlPlaneManager
from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.engines import register_engine
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.states import EngineState
from sagellm_workers.http.transport import engine_client
from sagellm_workers.serving.served_engine import ServedEngine
from sagellm_workers.settings import WorkerSettings

from ..waiting import wait_until
from .conftest import Mode, Plane, StartEngine, schedulers_and_workers


async def test_they_make_vectors(redis_settings: RedisSettings, store: Store, start_engine: StartEngine) -> None:
    engine, stop = await start_engine(models=["both"]), asyncio.Event()
    row = EngineRow("text", "text", "http://127.0.0.1:1", "openai", 1, ("text",), kinds=("chat",), worker="other")
    await register_engine(store, dataclasses.replace(row, state=EngineState.READY), lease_ms=3_600_000)
    manager = ControlPlaneManager(redis_url=redis_settings.url, namespace=redis_settings.namespace)
    plane, board = Plane(manager, Mode.SHARED), manager._backend.board
    async with schedulers_and_workers(redis_settings), engine_client() as client, asyncio.TaskGroup() as tasks:
        served = ServedEngine(store, client, engine.url, WorkerSettings(drain_s=0.5))
        tasks.create_task(served.run(stop))
        await manager.start()
        await wait_until(lambda: manager.healthy_engine_count == 2, what="both are seen")
        for model in ("both", "default"):
            assert len(await manager.get_embeddings(["a", "b"], model)) == 2
        with pytest.raises(ValueError, match="No embedding engines available for model text"):
            await manager.get_embeddings(["a"], "text")
        plane.register("v1", await start_engine(models=["vectors"]), model="vectors", engine_kind="embedding")
        await plane.ready("v1")
        assert {board.embedding_model("default") for _ in range(4)} == {"vectors"}
        assert board.embedding_model("both") == "both"
        manager.unregister_engine("v1")
        await manager.stop()
        stop.set()
