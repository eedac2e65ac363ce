"""Engines whose lease has lapsed, and what a keeper does with them at the second look, at once."""

from __future__ import annotations

from sagellm_control.keeper.lapses import LapseKeeper
from sagellm_control.store.inspect import read_leases

from .pool_driver import PoolDriver


async def lapsed_leases(pool: PoolDriver) -> list[str]:
    """Engines whose worker's lease has lapsed and that nobody has retired yet."""
    return (await read_leases(pool.store, pool.name)).lapsed


async def retire_lapsed(pool: PoolDriver) -> int:
    """Retire every engine whose lease has lapsed; how many requests were given back."""
    return await LapseKeeper(pool.store, pool.name).retire(await lapsed_leases(pool))
