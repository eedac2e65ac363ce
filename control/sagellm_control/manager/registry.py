"""The engines of a manager."""

from __future__ import annotations

from typing import Any

from ..types import EngineInfo, EngineState
from .arguments import engine_state
from .backend import Backend
from .load import ModelLoad, load_of


class EngineRegistry:
    """What programs say and ask of engines: a half of ``ControlPlaneManager``, the other half is requests.

    Args:
        room: requests at once on an engine whose metadata does not say.
    """

    def __init__(self, backend: Backend, room: int) -> None:
        self._backend = backend
        self._room = room

    def register_engine(
        self,
        engine_id: str,
        model_id: str,
        host: str,
        port: int,
        engine_kind: str = "llm",
        metadata: dict[str, Any] | None = None,
    ) -> EngineInfo:
        """A new engine, STARTING until it answers its first health probe.

        Args:
            metadata: kept as it is. Read from it: ``max_concurrent_requests`` (256), ``kv_tokens`` (that its cache
                holds; no bound), ``instance_type`` (general), ``wire`` (found out), ``api_key``,
                ``pre_verified_healthy`` (READY at once), ``engine_instance``.

        Raises:
            ValueError, TypeError: the id is taken, or the metadata is wrong.
        """
        if metadata is not None and not isinstance(metadata, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"metadata must be a dict, not {metadata!r}")
        board = self._backend.board
        if engine_id in board.engines and engine_id not in board.abandoned:
            raise ValueError(f"Engine {engine_id} already registered")
        info = EngineInfo(
            engine_id=engine_id,
            model_id=model_id,
            host=host,
            port=port,
            engine_kind=engine_kind,
            metadata=metadata if metadata is not None else {},
        )
        if (left_behind := board.remove(engine_id)) is not None:
            left_behind.watch(None)
        board.add(info)
        try:
            self._backend.register(info)
        except BaseException:
            board.remove(engine_id)
            raise
        return info

    def unregister_engine(self, engine_id: str) -> bool:
        """Forget an engine; what runs on it goes on. False: there is no such engine."""
        info = self._backend.board.engines.get(engine_id)
        if info is None:
            return False
        model = self._backend.board.model_of(engine_id)
        self._backend.unregister(info)
        self._backend.board.remove(engine_id)
        if not self._backend.board.of_model(model):
            self._backend.misses.forget(model)
        return True

    def update_engine_state(self, engine_id: str, state: EngineState) -> bool:
        """Say which state an engine is in; False: there is no such engine.

        Raises:
            ValueError: ``state`` is none.
        """
        wanted = engine_state(state)
        info = self._backend.board.engines.get(engine_id)
        if info is None:
            return False
        self._backend.set_state(info, wanted)
        return True

    def get_engine(self, engine_id: str) -> EngineInfo | None:
        """The engine, live; None: there is no such engine."""
        return self._backend.board.engines.get(engine_id)

    def list_engines(self, state: EngineState | None = None) -> list[EngineInfo]:
        """All engines in the order of their registration, or those in a state."""
        engines = self._backend.board.engines.values()
        return [info for info in engines if state is None or info.state == state]

    def get_engines_for_model(self, model_id: str) -> list[EngineInfo]:
        """The engines that were registered with this model, in any state."""
        return self._backend.board.of_model(model_id)

    @property
    def engine_count(self) -> int:
        """Engines."""
        return len(self._backend.board.engines)

    @property
    def healthy_engine_count(self) -> int:
        """READY engines."""
        return sum(info.is_healthy for info in self._backend.board.engines.values())

    def get_load(self) -> list[ModelLoad]:
        """How busy the engines of each model are."""
        board, room = self._backend.board, self._room
        return [
            load_of(model, board.of_model(model), room, self._backend.waiting(model), self._backend.misses.rate(model))
            for model in board.models
        ]
