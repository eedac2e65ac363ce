"""Clients that go on asking while servers die, and what became of each of their requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from ..flow.asking import CHAT_PATH, chat, data, delta_of, error_of, expected_text
from ..flow.in_process import InProcessSystem

TOKENS = 12
MAY_REFUSE = frozenset({"queue_unavailable", "no_engine"})
"""What a request may be told that comes while there is no master."""
MAY_END = frozenset({"request_lost", "engine_lost"})
"""How a stream may end of which the failover took the rest: clearly, and never in silence."""


@dataclass
class Load:
    """What clients saw."""

    whole: int = 0
    refused: int = 0
    ended: int = 0
    """Streams that had begun and ended with an error event."""
    wrong: list[str] = field(default_factory=list[str])

    async def ask(self, system: InProcessSystem, client: int, stop: asyncio.Event) -> None:
        """Ask again and again; every second answer is streamed."""
        number = 0
        while not stop.is_set():
            number += 1
            text = f"client {client}, request {number}"
            try:
                await self._once(system, text, stream=number % 2 == 0)
            except (aiohttp.ClientError, AssertionError) as error:
                self.wrong.append(f"{text}: {error!r}")

    async def _once(self, system: InProcessSystem, text: str, *, stream: bool) -> None:
        body = chat(text, max_tokens=TOKENS, stream=stream)
        async with system.session.post(system.url + CHAT_PATH, json=body) as response:
            if response.status != 200:
                error = await error_of(response)
                if response.status == 503 and error["code"] in MAY_REFUSE and "Retry-After" in response.headers:
                    self.refused += 1
                    await asyncio.sleep(0.05)
                    return
                self.wrong.append(f"{text}: {response.status} {error}")
                return
            if stream:
                events = [event async for event in data(response)]
                if isinstance(events[-1], dict) and events[-1].get("error", {}).get("code") in MAY_END:
                    self.ended += 1
                    return
                answer = "".join(map(delta_of, events)) if events[-1] == "[DONE]" else f"no end: {events[-1]}"
            else:
                answer = (await response.json())["choices"][0]["message"]["content"]
        if answer == expected_text(text, TOKENS):
            self.whole += 1
        else:
            self.wrong.append(f"{text}: {answer}")


@asynccontextmanager
async def under_load(system: InProcessSystem, clients: int = 6) -> AsyncGenerator[Load, None]:
    """So many clients at once; at the end each has had its last answer."""
    load, stop = Load(), asyncio.Event()
    asking = [asyncio.create_task(load.ask(system, number, stop)) for number in range(clients)]
    try:
        yield load
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*asking)
