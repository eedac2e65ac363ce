"""Engine objects of this process, which it serves itself, as a worker would."""

from __future__ import annotations

import asyncio
import socket

from ..engine_access import engine_session
from ..store.connect import Store
from ..types import EngineInfo
from ..wire.registration import Registration
from .engine_adapters import EngineAdapters


class EngineObjects:
    """Their sessions, from ``serve`` to ``end``."""

    def __init__(self, manager_id: str, adapters: EngineAdapters) -> None:
        self._worker = f"{socket.gethostname()}-{manager_id}"
        self._adapters = adapters
        self._served: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = {}

    async def serve(self, store: Store, info: EngineInfo, registration: Registration) -> None:
        """Serve one until it is ended."""
        session = await engine_session(store, await self._adapters.find(info), registration, self._worker)
        ended = asyncio.Event()
        task = asyncio.create_task(session.serve(ended), name=f"serve {info.engine_id}")
        self._served[info.engine_id] = (ended, task)

    async def end(self, engine_id: str) -> None:
        """Drain one, if it is served."""
        await self._end([engine_id])

    async def end_all(self) -> None:
        """Drain all."""
        await self._end(list(self._served))

    async def _end(self, engine_ids: list[str]) -> None:
        served = [self._served.pop(engine_id) for engine_id in engine_ids if engine_id in self._served]
        for ended, _ in served:
            ended.set()
        if served:
            await asyncio.wait({task for _, task in served})
