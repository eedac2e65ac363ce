"""Engines that their program has said to be healthy, until a worker serves them."""

from __future__ import annotations

import asyncio
import time

from ..types import EngineState
from .board import EngineBoard

SERVED_WITHIN_S = 10.0
"""So long (s) such an engine counts as READY without a worker. One that adopts has it within a second."""


class PromisedEngines:
    """They are READY on the board at once; a request for them waits for the worker."""

    def __init__(self, board: EngineBoard) -> None:
        self._board = board
        self._until: dict[str, float] = {}
        self._looked = asyncio.Event()

    def add(self, engine_id: str) -> None:
        """Its program says that it is healthy."""
        self._until[engine_id] = time.monotonic() + SERVED_WITHIN_S

    def forget(self, engine_id: str) -> None:
        """A worker has said how it is, or it has gone."""
        self._until.pop(engine_id, None)

    def clear(self) -> None:
        """Nobody looks for workers any more."""
        self._until.clear()
        self.looked()

    def holds(self, engine_id: str) -> bool:
        """Whether it counts as READY although no worker serves it."""
        return self._until.get(engine_id, 0.0) > time.monotonic()

    def looked(self) -> None:
        """The board has been read anew."""
        self._looked, looked = asyncio.Event(), self._looked
        looked.set()

    def awaited(self, model: str) -> bool:
        """Whether the model has no READY engines but such."""
        ready = [info for info in self._board.of_model(model) if info.state == EngineState.READY]
        return bool(ready) and all(self.holds(info.engine_id) for info in ready)

    async def served(self, model: str, timeout_s: float | None) -> None:
        """Wait until one of them has its worker, or none counts as READY any more. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while self.awaited(model):
                await self._looked.wait()
