"""After an outage that was longer than a lease every lease has lapsed; nobody is robbed of his work for that."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from sagellm_control.keeper import lapses
from sagellm_control.store.connect import Store
from sagellm_control.store.inspect import Leases, read_leases
from sagellm_control.store.settings import RedisSettings

from ..clock import Clock
from ..pool_driver import LEASE_MS, PoolDriver
from ..waiting import wait_until

PATIENCE_S = 0.6


async def test_workers_have_time_to_come_back(
    pool: PoolDriver, redis_settings: RedisSettings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lapses, "LOOK_EVERY_S", 0.01)
    await pool.engine("e1")
    await pool.running("a")
    clock.advance(LEASE_MS + 1)
    away: list[float] = []
    looks = 0

    async def look(store: Store, name: str) -> Leases:
        nonlocal looks
        looks += 1
        if looks == 1:
            away.append(time.monotonic())
            raise ConnectionError("Redis is away")
        return await read_leases(store, name)

    monkeypatch.setattr(lapses, "read_leases", look)
    update = {"command_timeout_s": PATIENCE_S / 2, "connect_timeout_s": PATIENCE_S / 2}
    other = replace(pool, store=Store(redis_settings.model_copy(update=update), now=clock))
    keeping = asyncio.create_task(lapses.LapseKeeper(other.store, pool.name).run())
    try:
        await wait_until(lambda: waits(pool), what="patience has an end")
        assert time.monotonic() - away[0] >= PATIENCE_S
        assert looks > 3
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        await other.store.close()


async def waits(pool: PoolDriver) -> bool:
    return await pool.state("a") == "waiting"
