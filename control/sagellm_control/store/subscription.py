"""Listens to one channel, on a connection of its own.

redis-py's way sets up a deadline, a retry and a log line that holds the whole message for each message. Here each is
dealt with where the event loop hands over its bytes: no task has to be woken for it first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.exceptions import ConnectionError

Hear = Callable[[bytes | None], None]
"""Called with each message; with None when the subscription stands."""


async def listen(client: Any, channel: str, hear: Hear, *, silence_s: float) -> NoReturn:
    """Have what is published on a channel heard, until cancelled.

    Args:
        client: see ``Store.subscriber``.
        silence_s: a server that says nothing for so long is taken to be gone.

    Raises:
        RedisError, OSError: nothing is heard, or not any more.
        Exception: raised by ``hear``.
    """
    pool = client.connection_pool
    async with asyncio.timeout(silence_s):
        connection = await pool.get_connection()
    try:
        ear = _Ear(connection, hear, silence_s)
        connection.tell("SUBSCRIBE", channel)
        await ear.deaf
        raise ConnectionError("the subscription ended")
    finally:
        connection.expect_within(None)
        await connection.disconnect(nowait=True)
        await pool.release(connection)


class _Ear(asyncio.Protocol):
    """Takes the place of a connection's stream."""

    def __init__(self, connection: Any, hear: Hear, silence_s: float) -> None:
        self.deaf: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with why nothing more will be heard."""
        self._connection = connection
        self._hear = hear
        self._silence_s = silence_s
        self._stream, self._words = connection.hand_over(self)
        connection.expect_within(silence_s)

    def data_received(self, data: bytes) -> None:
        self._connection.expect_within(self._silence_s)
        self._words.feed(data)
        try:
            while (said := self._words.gets()) is not NOT_ENOUGH_DATA:
                if isinstance(said, Exception):
                    raise said
                kind, _, message = said
                self._hear(message if kind == b"message" else None)
        except Exception as error:
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.connection_lost(exc)  # somebody may wait until it is closed
        why = "the connection to the server was lost"
        if self._connection.late:
            why = f"nothing was heard for {self._silence_s:g} s"
        self._end(ConnectionError(f"{why}: {exc}" if exc else why))

    def _end(self, error: Exception) -> None:
        if not self.deaf.done():
            self.deaf.set_exception(error)
