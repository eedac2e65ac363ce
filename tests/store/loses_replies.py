"""A connection that loses replies."""

from __future__ import annotations

from typing import Any

from redis.exceptions import TimeoutError


class LosesReplies:
    """A client that carries out a command and then loses its reply, as often as told."""

    def __init__(self, client: Any, error: type[Exception] = TimeoutError, times: int = 1) -> None:
        self._client = client
        self._error = error
        self._left = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def execute_command(self, *arguments: Any) -> Any:
        answer = await self._client.execute_command(*arguments)
        if self._left:
            self._left -= 1
            raise self._error("the reply was lost")
        return answer
