"""Engine objects of this process, which it serves itself, as a worker would."""

from __future__ import annotations

import asyncio
import socket

from ..engine_access import engine_session
from ..store.connect import Store
from ..store.registrations import register
from ..types import EngineInfo
from ..wire.registration import Registration
from .engine_adapters import EngineAdapters


class EngineObjects:
    """Their sessions, from ``serve`` to ``end``. They serve while their manager follows the engines."""

    def __init__(self, manager_id: str, adapters: EngineAdapters) -> None:
        self._manager_id = manager_id
        self._worker = f"{socket.gethostname()}-{manager_id}"
        self._adapters = adapters
        self._served: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = {}

    def serves(self, engine_id: str) -> bool:
        """Whether it is served now."""
        return engine_id in self._served and not self._served[engine_id][1].done()

    async def serve(self, store: Store, info: EngineInfo, registration: Registration) -> None:
        """Serve one until it is ended."""
        session = await engine_session(store, await self._adapters.find(info), registration, self._worker)
        ended = asyncio.Event()
        task = asyncio.create_task(session.serve(ended), name=f"serve {info.engine_id}")
        self._served[info.engine_id] = (ended, task)

    async def claim(self, store: Store, info: EngineInfo, registration: Registration) -> None:
        """Serve one, unless it is served here, or a process that lives serves one of its id."""
        if self.serves(info.engine_id):
            return
        other = await register(store, registration)
        if other is None or other.server == self._manager_id:  # what was registered may have another state since
            await self.serve(store, info, registration)

    async def end(self, engine_id: str) -> None:
        """Drain one, if it is served."""
        await self._end([engine_id])

    async def end_all(self) -> None:
        """Drain all."""
        await self._end(list(self._served))

    async def _end(self, engine_ids: list[str]) -> None:
        for ended, _ in (served := [self._served.pop(name) for name in engine_ids if self.serves(name)]):
            ended.set()
        if served:
            await asyncio.wait({task for _, task in served})
