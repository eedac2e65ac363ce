"""Which of aiohttp's connections carries a request, and whether it may have been dead before."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from .engine_protocol import EngineProtocol

DEAD_WITHIN_S = 2.0  # a dead connection shows within a round trip; later it is the engine that broke down


@dataclass(slots=True)
class ConnectionUse:
    """What the connector tells the transport about the connection that it chose."""

    began: float
    reused: bool = False

    def died_unnoticed(self, error: Exception) -> bool:
        """Whether the connection was dead before the request: if so, the request was never seen."""
        if not self.reused or asyncio.get_running_loop().time() - self.began > DEAD_WITHIN_S:
            return False
        # A ServerDisconnectedError holds the half-read answer, if there is one, in place of its text.
        return not isinstance(error, aiohttp.ServerDisconnectedError) or isinstance(error.message, str)


current_use: contextvars.ContextVar[ConnectionUse] = contextvars.ContextVar("connection_use")


class EngineConnector(aiohttp.TCPConnector):
    """Remembers which connections have carried a request before: only those can have died unnoticed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(EngineProtocol, loop=self._loop)

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        protocol = connection.protocol
        if isinstance(protocol, EngineProtocol):
            current_use.get().reused = protocol.has_carried
            protocol.has_carried = True
        return connection
