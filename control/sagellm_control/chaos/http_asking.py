"""Asks over HTTP, through whichever gateway answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from enum import Enum, auto

import aiohttp
import orjson

from ..gateway.errors import GATEWAY_STOPPING
from .ledger import Asked, Ledger
from .process import Kind
from .system import SHUTDOWN_S, System

SILENT_S = 20.0
"""A gateway comments in silent streams every few seconds; stopped ones are back long before this."""


class Reading(Enum):
    """How one connection ended."""

    ENDED = auto()
    """The client was told how its request ended."""
    LEFT = auto()
    """The client left on purpose."""
    BROKEN = auto()
    """The connection broke."""
    REFUSED = auto()
    """The request was not accepted."""


class HttpAsking:
    """A client's way over HTTP. A broken connection is only excused by a gateway that was disturbed."""

    def __init__(self, session: aiohttp.ClientSession, system: System, ledger: Ledger, dice: random.Random) -> None:
        self._session = session
        self._ledger = ledger
        self._dice = dice
        self._gateways = [(victim, system.gateway_urls[victim.name]) for victim in system.of(Kind.GATEWAY)]

    async def ask(self, asked: Asked, *, leave_after: int | None = None) -> Reading:
        """Send the request and read the answer, or its first ``leave_after`` tokens."""
        headers = {"X-Request-Priority": asked.question.priority.name}
        if asked.key is not None:
            headers["Idempotency-Key"] = asked.key
        else:
            headers["X-Request-ID"] = asked.request_id
        if asked.numbered:
            headers["X-Event-IDs"] = "true"
        if asked.question.timeout_ms is not None:
            headers["X-Request-Timeout-Ms"] = f"{asked.question.timeout_ms}"

        def send(url: str) -> aiohttp.client._RequestContextManager:  # pyright: ignore[reportPrivateUsage] - its only name
            # Nobody comments in an answer that is not streamed: it may be silent for as long as it waits.
            silent_s = SILENT_S if asked.question.stream else None
            timeout = aiohttp.ClientTimeout(total=None, connect=SILENT_S, sock_read=silent_s)
            body = asked.question.body
            return self._session.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=timeout)

        return await self._read(asked, send, leave_after)

    async def resume(self, asked: Asked, *, leave_after: int | None = None) -> Reading:
        """Come back for the answer of a request that was accepted before.

        The Idempotency-Key gives the whole answer again, from its beginning; a numbered stream goes on behind the last
        event that came. REFUSED: it cannot be reached now, or nobody knows it.
        """
        if not asked.numbered:
            asked.transcript.restart()
            return await self.ask(asked, leave_after=leave_after)
        asked.transcript.reconnect()
        last = asked.transcript.last_event_id
        headers = {} if last is None else {"Last-Event-ID": last}

        def send(url: str) -> aiohttp.client._RequestContextManager:  # pyright: ignore[reportPrivateUsage] - its only name
            timeout = aiohttp.ClientTimeout(total=None, connect=SILENT_S, sock_read=SILENT_S)
            return self._session.get(f"{url}/v1/requests/{asked.request_id}/events", headers=headers, timeout=timeout)

        return await self._read(asked, send, leave_after)

    async def _read(
        self,
        asked: Asked,
        send: Callable[[str], aiohttp.client._RequestContextManager],  # pyright: ignore[reportPrivateUsage]
        leave_after: int | None,
    ) -> Reading:
        gateway, url = self._dice.choice(self._gateways)
        began = time.monotonic()
        try:
            async with send(url) as answer:
                # Only what has been submitted has its priority echoed, or can be come back for.
                asked.accepted |= "X-Request-Priority" in answer.headers or answer.status == 200
                if answer.status == 204 and asked.transcript.ended:
                    return Reading.ENDED
                if answer.status != 200:
                    return await self._take_error(asked, answer)
                if not asked.question.stream:
                    asked.transcript.take_whole(await answer.read())
                    return Reading.ENDED
                if leave_after == 0:
                    return Reading.LEFT
                async for data in answer.content.iter_any():
                    asked.transcript.take_stream(data)
                    if leave_after is not None and len(asked.transcript.pieces) >= leave_after:
                        return Reading.LEFT
            if asked.transcript.error == GATEWAY_STOPPING:
                asked.transcript.error = None  # it is no end: its clients come back, elsewhere
                raise ConnectionError(GATEWAY_STOPPING)
            if not asked.transcript.ended:
                self._ledger.problems.append(f"{asked.request_id}: its stream closed properly without an end")
                return Reading.BROKEN
            return Reading.ENDED
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if asked.transcript.ended:
                return Reading.ENDED
            # A gateway that was told to stop ends what is still open some seconds later.
            if not gateway.disturbed_since(began - SHUTDOWN_S - 1):
                self._ledger.problems.append(f"{asked.request_id}: {gateway.name} broke its connection: {error!r}")
            return Reading.BROKEN

    async def _take_error(self, asked: Asked, answer: aiohttp.ClientResponse) -> Reading:
        if answer.status == 204:
            self._ledger.problems.append(f"{asked.request_id}: nothing is left of an answer whose end never came")
            return Reading.BROKEN
        body = orjson.loads(await answer.read())
        code = str(body["error"].get("code") or body["error"].get("type"))
        if code == GATEWAY_STOPPING and "X-Request-Priority" in answer.headers:
            raise ConnectionError(GATEWAY_STOPPING)
        if code == "internal_error":
            self._ledger.problems.append(f"{asked.request_id}: HTTP {answer.status} {body}")
        if answer.status == 404 and asked.accepted:
            self._ledger.lost.add(asked.request_id)
            asked.transcript.take_error(code)
            return Reading.ENDED
        if "X-Request-Priority" not in answer.headers:
            self._ledger.refuse(asked, code)
            return Reading.REFUSED
        asked.transcript.take_error(code)
        return Reading.ENDED


def http_session() -> aiohttp.ClientSession:
    """A session for all clients; each request has a connection of its own, as a crash of the server costs it that."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))


async def pause(dice: random.Random, seconds: float = 0.3) -> None:
    """What a client waits before it tries again."""
    await asyncio.sleep(seconds * dice.uniform(0.5, 1.5))
