"""Connections for commands: a deadline that does not swallow cancellations, quick packing, and an end that is one.

redis-py writes each command under ``asyncio.wait_for``. On Python 3.11 that can lose a cancellation which comes just
when the write is done: the task goes on as if nobody had asked it to stop, and whoever waits for it waits for ever.
(It also costs a task a command.) So the connections get no ``socket_timeout``, and this instead.

Closing a pool of redis-py closes the connections that it has: one that is just being made stays open for ever, and
whoever asks for one afterwards gets a new one. Ours refuse both (see ``close_pools``).
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import Any

import hiredis
from redis.exceptions import ConnectionError, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

LONGEST_CLOSE_S = 1.0
"""A server that takes no part in the end of a TLS session is not waited for any longer."""


class CommandDeadline:
    """Mixin for redis-py's connections."""

    command_timeout_s: float | None
    pool: Any
    """The pool that they belong to."""
    closed = False
    """The pool was closed."""
    _in_time = False
    """A deadline is running. (One task at a time has the connection, but for a subscription, which has no deadline.)"""

    async def _connect(self) -> None:
        if not self.closed:
            await super()._connect()  # pyright: ignore[reportAttributeAccessIssue]
        if self.closed:
            await self.disconnect()  # pyright: ignore[reportAttributeAccessIssue]
            raise ConnectionError("the connections to the server were closed")

    def pack_command(self, *words: Any) -> list[bytes]:
        """One buffer, made by hiredis; redis-py's own packing is in Python here and gives a buffer a word."""
        name: str = words[0]
        if " " in name:  # "XGROUP CREATE" is two words on the wire
            words = (*name.split(), *words[1:])
        try:
            return [hiredis.pack_command(words)]
        except UnicodeEncodeError:
            # A name that somebody wrote and that is no UTF-8 (see ``wire.keys.read_name``).
            words = tuple(w.encode(errors="surrogateescape") if isinstance(w, str) else w for w in words)
            return [hiredis.pack_command(words)]

    async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
        """Write a command."""
        await self.in_time(super().send_packed_command(*arguments, **options))  # pyright: ignore[reportAttributeAccessIssue]

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read an answer."""
        try:
            return await self.in_time(super().read_response(*arguments, **options))  # pyright: ignore[reportAttributeAccessIssue]
        except ReadOnlyError as error:
            # It was the master when we connected; whoever is now is found by connecting again.
            await self._leave()
            raise ConnectionError("the server is a replica now") from error

    async def in_time(self, step: Coroutine[Any, Any, Any]) -> Any:
        """What a step gives; its parts have its deadline, not each one of its own.

        Raises:
            redis.exceptions.TimeoutError: the server did not answer within the deadline.
        """
        if self.command_timeout_s is None or self._in_time:
            return await step
        self._in_time = True
        try:
            async with asyncio.timeout(self.command_timeout_s):
                return await step
        except TimeoutError as error:
            # The answer may still come: nobody must take it for that of the next command.
            await self._leave()
            raise RedisTimeoutError(f"no answer from the server within {self.command_timeout_s:g} s") from error
        finally:
            self._in_time = False

    async def _leave(self) -> None:
        """Disconnect, and the idle connections too: whoever needs one connects to where the server is now."""
        for connection in (self, *self.pool._available_connections):
            # Without waiting: meanwhile another task could take it and connect it.
            await connection.disconnect(nowait=True)  # pyright: ignore[reportAttributeAccessIssue]


def with_deadline(pool: Any, command_timeout_s: float | None) -> None:
    """From now on the pool's connections give each command so long (s); None: for ever."""
    name = f"Deadline{pool.connection_class.__name__}"
    bases = (CommandDeadline, pool.connection_class)
    attributes = {"command_timeout_s": command_timeout_s, "pool": weakref.proxy(pool)}
    pool.connection_class = type(name, bases, attributes)


async def close_pools(pools: Iterable[Any]) -> None:
    """Close the connections of such pools; none is made any more.

    redis-py closes each in a task of its own, and whoever is cancelled meanwhile leaves open what was not yet begun.
    Here all are closing before anything is waited for.
    """
    pools = list(pools)
    for pool in pools:
        pool.connection_class.closed = True
    connections = [c for pool in pools for c in (*pool._available_connections, *pool._in_use_connections)]
    writers = [connection._writer for connection in connections if connection.is_connected]
    for connection in connections:
        await connection.disconnect(nowait=True)
    with suppress(TimeoutError):
        async with asyncio.timeout(LONGEST_CLOSE_S):
            for writer in writers:
                with suppress(OSError):
                    await writer.wait_closed()
