"""Many slow streams at once: each client gets its own tokens, all of them, in order."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from .asking import CHAT_PATH, chat, data, delta_of, expected_tokens
from .conftest import StartEngine, StartSystem
from .in_process import InProcessSystem

CLIENTS, TOKENS = 300, 20
SLOTS = 60
"""On each of three engines: some clients have to wait for a place."""


async def _ask(system: InProcessSystem, gateway: str, number: int) -> None:
    text = f"client {number} asks something"
    body = chat(text, max_tokens=TOKENS, stream=True)
    async with system.session.post(gateway + CHAT_PATH, json=body) as response:
        assert response.status == 200, await response.text()
        events = [event async for event in data(response)]
    assert events[-1] == "[DONE]"
    deltas = [delta for event in events if (delta := delta_of(event))]
    assert deltas == expected_tokens(text, TOKENS)
    assert len({event["id"] for event in events[:-1]}) == 1, "one answer is made of several"


@pytest.mark.parametrize("gateways", [1, 2])
async def test_every_stream_is_whole(start_engine: StartEngine, start_system: StartSystem, gateways: int) -> None:
    engines = [await start_engine(slots=SLOTS, tpot_ms=30, tpot_per_running_ms=0) for _ in range(3)]
    system = await start_system(*engines, gateways=gateways, schedulers=2)
    async with asyncio.timeout(60):
        await asyncio.gather(*(_ask(system, system.gateways[number % gateways], number) for number in range(CLIENTS)))
    await system.until_idle()
    states = [await engine.state() for engine in engines]
    assert sum(state["finished"] for state in states) == CLIENTS
    assert sum(state["total_requests"] for state in states) == CLIENTS, "some were run twice"
    assert all(state["peak_running"] <= SLOTS and state["waiting"] == 0 for state in states)
    counters = await system.store.commands.hgetall(system.store.keys.pool("simulated-1").counters)
    assert Counter({name.decode(): int(count) for name, count in counters.items()}) == Counter(
        accepted=CLIENTS, completed=CLIENTS
    )
