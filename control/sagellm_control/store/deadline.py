"""Connections for commands: a deadline that does not swallow cancellations, quick packing, and an end that is one.

redis-py writes each command under ``asyncio.wait_for``. On Python 3.11 that can lose a cancellation which comes just
when the write is done: the task goes on as if nobody had asked it to stop, and whoever waits for it waits for ever.
(It also costs a task a command.) So the connections get no ``socket_timeout``, and this instead.

What redis-py calls around a command and its answer takes longer than both, so most commands go past it: see ``ask``.

Closing a pool of redis-py closes the connections that it has: one that is just being made stays open for ever, and
whoever asks for one afterwards gets a new one. Ours refuse both (see ``close_pools``).
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import Any, NoReturn

import hiredis
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.exceptions import ConnectionError, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

LONGEST_CLOSE_S = 1.0
"""A server that takes no part in the end of a TLS session is not waited for any longer."""
READ_BYTES = 65_536
"""At most so much is taken of what has come."""

_PUSHED: Any = getattr(hiredis, "PushNotification", ())
"""What a server says unasked; older versions of hiredis have no class for it, nor do servers then say any."""


class CommandDeadline:
    """Mixin for redis-py's connections."""

    command_timeout_s: float | None
    pool: Any
    """The pool that they belong to."""
    closed = False
    """The pool was closed."""
    _in_time = False
    """A deadline is running. (One task at a time has the connection, but for a subscription, which has no deadline.)"""
    _late_at = math.inf
    """When what is waited for is late, on the event loop's clock; inf: never."""
    _timer: asyncio.TimerHandle | None = None
    late = False
    """The connection was cut, as what was expected did not come in time."""
    _reader: Any
    _writer: Any
    _parser: Any

    @property
    def ready(self) -> bool:
        """Whether it stands, and the next that is read from it is the answer to what is asked next."""
        reader, writer = self._reader, self._writer
        if reader is None or writer is None or writer.transport.is_closing() or reader.at_eof():
            return False
        return not reader._buffer and not self._parser._reader.has_data()

    async def ask(self, words: tuple[Any, ...]) -> Any:
        """The answer to a command, on a connection that is ready.

        Raises:
            ResponseError: the answer is one.
            ConnectionError, redis.exceptions.TimeoutError: there is none, or not within the deadline.
        """
        self._check_open()
        self.expect_within(self.command_timeout_s)
        try:
            # Nobody waits for it to leave: nothing else is written before the answer is there.
            self._writer.write(self._pack(words))
            answer = await self._reply()
            while isinstance(answer, _PUSHED):
                await self._parser.handle_push_response(answer)
                answer = await self._reply()
        except BaseException as error:
            # The answer may still come: nobody must take it for that of the next command.
            if self.late and isinstance(error, Exception):
                await self._leave()
                raise self._no_answer() from error
            await self.disconnect(nowait=True)  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(error, RuntimeError):  # so uvloop says that it has been closed
                raise ConnectionError(f"the connection to the server was closed: {error}") from error
            raise
        finally:
            self._late_at = math.inf
        if isinstance(answer, Exception):
            if isinstance(answer, ReadOnlyError):
                await self._leave_replica(answer)
            if isinstance(answer, ConnectionError):  # such as "LOADING"
                await self.disconnect(nowait=True)  # pyright: ignore[reportAttributeAccessIssue]
            raise answer
        return answer

    def expect_within(self, timeout_s: float | None) -> None:
        """Cut the connection if this is not called again within that time; None: let it be silent."""
        self.late = False
        if timeout_s is None:
            self._late_at = math.inf
            return
        loop = asyncio.get_running_loop()
        self._late_at = loop.time() + timeout_s
        if self._timer is None:  # one for many answers: it is put off when it goes off, and not by each of them
            self._timer = loop.call_at(self._late_at, self._look_at_clock)

    def tell(self, *words: Any) -> None:
        """Write a command to whose answer somebody else listens."""
        self._writer.write(self._pack(words))

    def hand_over(self, to: asyncio.BaseProtocol) -> tuple[Any, Any]:
        """Until it is disconnected, all that the server says goes there.

        Returns:
            The stream's own protocol, which is to be told of the end; and what splits bytes into answers.
        """
        self._check_open()
        transport = self._writer.transport
        stream = transport.get_protocol()
        transport.set_protocol(to)
        return stream, self._parser._reader

    async def _reply(self) -> Any:
        words, stream = self._parser._reader, self._reader
        answer = words.gets()
        while answer is NOT_ENOUGH_DATA:
            try:
                data = await stream.read(READ_BYTES)
            except OSError as error:
                raise ConnectionError(f"the connection to the server was lost: {error}") from error
            if not data:
                raise ConnectionError("the server closed the connection")
            words.feed(data)
            answer = words.gets()
        return answer

    def _check_open(self) -> None:
        if self._writer is None:  # closed while older versions of redis-py made sure that it stands
            raise ConnectionError("the connections to the server were closed")

    def _look_at_clock(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        if self._late_at == math.inf:
            return
        if loop.time() < self._late_at:
            self._timer = loop.call_at(self._late_at, self._look_at_clock)
        elif self._writer is not None:
            # Whoever waits is woken by the end of the connection. (A task that is cancelled by a deadline would have to
            # tell that from a cancellation from outside.)
            self.late = True
            self._writer.transport.abort()

    async def connect(self, *arguments: Any, **options: Any) -> None:
        """Connect, if it does not stand. One that has been cut and has not been told so yet does not: redis-py would
        write to it, and uvloop takes that for a mistake of ours."""
        if self._writer is not None and self._writer.transport.is_closing():
            await self.disconnect(nowait=True)  # pyright: ignore[reportAttributeAccessIssue]
        await super().connect(*arguments, **options)  # pyright: ignore[reportAttributeAccessIssue]

    async def _connect(self) -> None:
        if not self.closed:
            await super()._connect()  # pyright: ignore[reportAttributeAccessIssue]
        if self.closed:
            await self.disconnect()  # pyright: ignore[reportAttributeAccessIssue]
            raise ConnectionError("the connections to the server were closed")

    def pack_command(self, *words: Any) -> list[bytes]:
        """One buffer, made by hiredis; redis-py's own packing is in Python here and gives a buffer a word."""
        return [self._pack(words)]

    @staticmethod
    def _pack(words: tuple[Any, ...]) -> bytes:
        name: str = words[0]
        if " " in name:  # "XGROUP CREATE" is two words on the wire
            words = (*name.split(), *words[1:])
        try:
            return hiredis.pack_command(words)
        except UnicodeEncodeError:
            # A name that somebody wrote and that is no UTF-8 (see ``wire.keys.read_name``).
            words = tuple(w.encode(errors="surrogateescape") if isinstance(w, str) else w for w in words)
            return hiredis.pack_command(words)

    async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
        """Write a command."""
        await self.in_time(super().send_packed_command(*arguments, **options))  # pyright: ignore[reportAttributeAccessIssue]

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read an answer."""
        try:
            return await self.in_time(super().read_response(*arguments, **options))  # pyright: ignore[reportAttributeAccessIssue]
        except ReadOnlyError as error:
            await self._leave_replica(error)

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
            raise self._no_answer() from error
        finally:
            self._in_time = False

    def _no_answer(self) -> RedisTimeoutError:
        return RedisTimeoutError(f"no answer from the server within {self.command_timeout_s:g} s")

    async def _leave_replica(self, error: ReadOnlyError) -> NoReturn:
        # It was the master when we connected; whoever is now is found by connecting again.
        await self._leave()
        raise ConnectionError("the server is a replica now") from error

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
