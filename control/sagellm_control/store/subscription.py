"""A subscription to one channel, on a connection of its own.

redis-py's sets up a deadline, a retry and a log line that holds the whole message for each message that it reads.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import ConnectionError


class Subscription:
    """What is published on a channel, from ``subscribe`` on.

    Args:
        client: see ``Store.subscriber``.
        silence_s: a server that says nothing for so long is taken to be gone.
    """

    def __init__(self, client: Any, channel: str, *, silence_s: float) -> None:
        self._pool = client.connection_pool
        self._channel = channel
        self._silence_s = silence_s
        self._connection: Any = None

    async def subscribe(self) -> None:
        """Ask for it; that it stands is what ``next`` gives first.

        Raises:
            ConnectionError, OSError: the server cannot be reached.
        """
        self._connection = await self._pool.get_connection()
        await self._connection.send_command("SUBSCRIBE", self._channel)

    async def next(self) -> bytes | None:
        """The next message; None: the subscription stands from here on.

        Raises:
            RedisError: it does not, or not any more.
        """
        connection = self._connection
        connection.expect_within(self._silence_s)
        try:
            said = await connection.reply()
        except ConnectionError as error:
            if connection.late:
                raise ConnectionError(f"nothing was heard for {self._silence_s:g} s") from error
            raise
        if isinstance(said, Exception):
            raise said
        kind, _, message = said
        return message if kind == b"message" else None

    async def close(self) -> None:
        """Hear no more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.expect_within(None)
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)
