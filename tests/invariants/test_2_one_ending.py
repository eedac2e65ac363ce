"""Invariant 2. One ending: exactly one terminal outcome, and its client is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from sagellm_control.store.connect import Store
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.wire.event import END, Ending, read_frames
from sagellm_control.wire.states import Outcome

from ..lapsed import retire_lapsed
from ..pool_driver import LEASE_MS, PoolDriver
from ..pool_state import read_state, violations


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("state", ["queued", "waiting", "running"])
async def test_one_ending_whoever_wants_to_end_it(pool: PoolDriver, state: str, seed: int) -> None:
    """Gateway, scheduler, worker and keeper end the same request at the same moment, on connections of their own."""
    await pool.engine()
    if state == "queued":
        await pool.accept("a", timeout_ms=LEASE_MS)
    else:
        await getattr(pool, state)("a", timeout_ms=LEASE_MS)
    taken = await pool.take()
    pool.clock.advance(LEASE_MS)
    stores = [Store(pool.store.settings, now=pool.clock) for _ in range(6)]
    gateway, other_gateway, scheduler, worker, second_thread, keeper = (
        PoolDriver(store, pool.clock, pool.name, rows=pool.rows) for store in stores
    )
    enders: list[Callable[[], Awaitable[object]]] = [
        lambda: cancel(gateway.store, pool.name, "a"),
        lambda: cancel(other_gateway.store, pool.name, "a", Outcome.EXPIRED),
        lambda: scheduler.admit(*(pool.admission(entry, engine="e1") for entry in taken.arrivals)),
        lambda: scheduler.assign(Move("a", 0, "e1")),
        lambda: worker.finish("a"),
        lambda: second_thread.requeue("a", max_failures=1),
        lambda: retire_lapsed(keeper),
    ]
    random.Random(seed).shuffle(enders)
    listener = pool.store.subscriber().pubsub()
    try:
        await listener.subscribe("inbox-of-a")
        await listener.get_message(timeout=5)
        await asyncio.gather(*(ender() for ender in enders))
        if await pool.state("a") != "finished":
            # Its worker has been told to stop it, and does.
            assert await pool.finish("a", ending=Ending(Outcome.CANCELLED, 499))
        found = await read_state(pool.store, pool.keys)
        assert violations(found) == []
        assert found.records["a"]["state"] == "finished"
        assert found.endings == {"a": 1}
        outcome = found.records["a"]["outcome"]
        assert {o: found.counters.get(o, 0) for o in Outcome} == {o: int(o == outcome) for o in Outcome}
        told = [event for message in await _messages(listener) for event in read_frames(message)]
        assert [(event.type, Ending.decode(event.payload).outcome) for event in told] == [(END, outcome)]
    finally:
        await listener.aclose()
        for store in stores:
            await store.close()


async def _messages(listener: object) -> list[bytes]:
    found: list[bytes] = []
    while message := await listener.get_message(ignore_subscribe_messages=True, timeout=0.02):  # pyright: ignore
        found.append(message["data"])
    return found
