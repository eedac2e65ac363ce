"""Streams with ids: asking for them, leaving them, and coming back for the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson

from .asking import CHAT_PATH, chat, delta_of, pieces
from .in_process import InProcessSystem

IDS = {"X-Event-IDs": "true"}


async def numbered(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """Id and data of each event."""
    async for part in pieces(response):
        if part.startswith(b":"):
            continue
        event_id, payload = part.split(b"\n", 1)
        assert event_id.startswith(b"id: ")
        assert payload.startswith(b"data: ")
        value = payload.removeprefix(b"data: ")
        yield event_id.removeprefix(b"id: ").decode(), value.decode() if value == b"[DONE]" else orjson.loads(value)


def requests(system: InProcessSystem, request_id: str, rest: str = "", gateway: int = 0) -> str:
    return f"{system.gateways[gateway]}/v1/requests/{request_id}{rest}"


async def events(
    system: InProcessSystem, request_id: str, after: str | None = None, gateway: int = 0
) -> list[tuple[str, Any]]:
    """The events behind a position."""
    headers = {} if after is None else {"Last-Event-ID": after}
    async with system.session.get(requests(system, request_id, "/events", gateway), headers=headers) as response:
        assert response.status in (200, 204), await response.text()
        assert response.headers["X-Request-ID"] == request_id
        return [event async for event in numbered(response)]


def text_of(found: list[tuple[str, Any]]) -> str:
    return "".join(delta_of(value) for _, value in found)


async def ask(system: InProcessSystem, text: str = "hello", tokens: int = 30, **headers: str) -> tuple[str, list[Any]]:
    """A whole stream with ids; the request's id and the events."""
    body = chat(text, max_tokens=tokens, stream=True)
    async with system.session.post(system.url + CHAT_PATH, json=body, headers=IDS | headers) as response:
        assert response.status == 200, await response.text()
        return response.headers["X-Request-ID"], [event async for event in numbered(response)]


async def leave_after(system: InProcessSystem, count: int, tokens: int, gateway: int = 0, **headers: str) -> Any:
    """Read so many events and drop the connection; the request's id and what was read."""
    body = chat(max_tokens=tokens, stream=True)
    url = system.gateways[gateway] + CHAT_PATH
    async with system.session.post(url, json=body, headers=IDS | headers) as response:
        found: list[tuple[str, Any]] = []
        async for event in numbered(response):
            found.append(event)
            if len(found) == count:
                break
        response.close()
        return response.headers["X-Request-ID"], found
