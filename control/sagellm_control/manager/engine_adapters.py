"""The adapter of each engine: the object itself, the wire that its registration names, or the one that it speaks."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

from ..engine_access import (
    WIRES,
    EngineAdapter,
    EngineHttpClient,
    adapter_for,
    engine_http_client,
    kind_of,
)
from ..types import EngineInfo
from .instance_adapter import InstanceAdapter
from .open_while_used import OpenWhileUsed

Adapter = EngineAdapter | InstanceAdapter


class EngineAdapters:
    """One HTTP client for all engines, made when it is first needed."""

    def __init__(self, *, trust_env: bool, instances: bool) -> None:
        self._trust_env = trust_env
        self._instances = instances
        self._client: EngineHttpClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._adapters: dict[str, Adapter] = {}
        self._kinds: dict[str, str] = {}
        self._connections = OpenWhileUsed(self._close)

    def check(self, info: EngineInfo) -> None:
        """Whether the registration can be used.

        Raises:
            ValueError, TypeError: names the metadata that is wrong.
        """
        metadata = info.metadata or {}
        wire = metadata.get("wire", "auto")
        if wire not in WIRES:
            raise ValueError(f"engine {info.engine_id}: metadata['wire'] {wire!r} is none of {', '.join(WIRES)}")
        api_key = metadata.get("api_key")
        if not isinstance(api_key, str | None):
            raise TypeError(f"engine {info.engine_id}: metadata['api_key'] must be a string, not {api_key!r}")
        if self._instances and metadata.get("engine_instance") is not None:
            InstanceAdapter(metadata["engine_instance"])

    def forget(self, engine_id: str) -> None:
        """The engine has gone."""
        self._adapters.pop(engine_id, None)
        self._kinds.pop(engine_id, None)

    def known(self, engine_id: str) -> Adapter | None:
        """The engine's adapter, if it has been found and belongs to this event loop."""
        if self._loop is not asyncio.get_running_loop():
            return None
        return self._adapters.get(engine_id)

    async def find(self, info: EngineInfo) -> Adapter:
        """The engine's adapter; asks the engine which wire it speaks if nobody has said.

        Raises:
            EngineUnreachable: it does not answer.
        """
        client = self._http()
        adapter = self._adapters.get(info.engine_id)
        if adapter is None:
            adapter = self._adapters[info.engine_id] = await self._make(info, client)
        return adapter

    async def kind(self, engine_id: str, adapter: Adapter) -> str:
        """Which server the engine is (see ``EngineRow.kind``); asked when it first matters.

        Raises:
            EngineUnreachable: it does not answer.
        """
        kind = self._kinds.get(engine_id)
        if kind is None:
            kind = self._kinds[engine_id] = await kind_of(adapter)
        return kind

    def keep(self) -> None:
        """The connections stay open from one request to the next."""
        self._connections.keep()

    async def close(self) -> None:
        """Close the connections, when the requests that are on their way are over."""
        await self._connections.give_up()

    def used(self) -> AbstractAsyncContextManager[None]:
        """For a request: its connections stay open."""
        return self._connections.used()

    async def _close(self) -> None:
        client, self._client, self._loop = self._client, None, None
        self._adapters.clear()
        if client is not None:
            await client.aclose()

    def _http(self) -> EngineHttpClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            # Connections belong to the loop on which they were made.
            self._client, self._loop = engine_http_client(trust_env=self._trust_env), loop
            self._adapters.clear()
        return self._client

    async def _make(self, info: EngineInfo, client: EngineHttpClient) -> Adapter:
        metadata: dict[str, Any] = info.metadata or {}
        instance = metadata.get("engine_instance")
        if self._instances and instance is not None:
            return InstanceAdapter(instance)
        options: Any = {"api_key": metadata["api_key"]} if metadata.get("api_key") else {}
        return await adapter_for(info.endpoint, client, wire=metadata.get("wire", "auto"), **options)
