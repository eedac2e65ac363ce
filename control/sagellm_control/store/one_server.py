"""Commands to one server, on the shortest way: what redis-py does around each command for its metrics, its retries and
its pool takes as long as the command, and nothing of it is used here (we have metrics and deadlines of our own)."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio as redis
from redis.exceptions import ConnectionError

from .deadline import close_pools


class OneServerPool(redis.ConnectionPool):
    """Connections of one server; a burst waits for one, in line, instead of opening one each.

    Args:
        timeout: longest wait for a connection (s).
        options: see ``redis.asyncio.ConnectionPool``.
    """

    def __init__(self, *, timeout: float, **options: Any) -> None:
        super().__init__(**options)
        self._timeout_s = timeout
        self._free = asyncio.Semaphore(self.max_connections)

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        """A connection, ready to be written to. (Older versions of redis-py say for which command.)

        Raises:
            ConnectionError: the server cannot be reached, or none of the connections became free in time.
        """
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()  # at once: no deadline has to be set up
        try:
            connection: Any = self.get_available_connection()
        except BaseException:
            self._free.release()
            raise
        try:
            if not connection.ready:
                # New, closed by the server, or with an answer that nobody waits for; redis-py 8 would use the last two.
                await connection.disconnect(nowait=True)
                await connection.connect()
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        """Give a connection back."""
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)
        self._free.release()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise ConnectionError("No connection available.") from None


class OneServer(redis.Redis):
    """A client whose connections are a ``OneServerPool``'s, with ``CommandDeadline``."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close its connections; none is made after that."""
        await close_pools(self.retire())

    def retire(self) -> list[Any]:
        """The pools to close (see ``close_pools``); there will be no other."""
        return [self.connection_pool]

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command, once.

        Raises:
            RedisError: what the server says, or that it cannot be reached or says nothing in time.
        """
        pool: Any = self.connection_pool
        connection = await pool.get_connection()
        try:
            answer = await connection.ask(args)
        finally:
            await pool.release(connection)
        read = self.response_callbacks.get(args[0])
        if read is None:
            return answer
        options.pop("keys", None)  # redis-py has it for its cache
        return read(answer, **options)
