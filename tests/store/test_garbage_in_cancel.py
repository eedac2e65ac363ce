"""Somebody has written into a record that it is to end, and not with which of the two outcomes."""

from __future__ import annotations

import pytest

from sagellm_control.store.steps.engines import renew_engine

from ..pool_driver import LEASE_MS, PoolDriver


@pytest.mark.parametrize("step", ["claim", "renew", "requeue", "advance"])
@pytest.mark.parametrize(
    ("written", "outcome"), [(b"expired", "expired"), (b"cancelled", "cancelled"), (b"\xa9", "cancelled")]
)
async def test_it_is_cancelled(pool: PoolDriver, step: str, written: bytes, outcome: str) -> None:
    row = await pool.engine()
    await pool.assigned("a")
    await pool.store.commands.hset(pool.keys.record("a"), "cancel", written)
    match step:
        case "claim":
            told = await pool.claim("a")
        case "renew":
            renewal = await renew_engine(pool.store, row, [("a", 1)], lease_ms=LEASE_MS)
            told = "" if renewal is None else renewal.attempts[0]
        case "requeue":
            told = await pool.requeue("a")
        case _:
            told = await pool.advance("a")
    assert told == outcome
