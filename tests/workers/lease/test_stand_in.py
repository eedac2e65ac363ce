"""A blocked event loop does not cost the lease; one that never comes back does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator

import pytest

from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.engines import register_engine, retire_engine
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.states import EngineState
from sagellm_workers.lease.lease import Lease, LeaseLost
from sagellm_workers.lease.stand_in import StandIn

from ...samples import sample
from ...waiting import wait_until

LEASE_S = 0.6


@pytest.fixture
async def real_store(redis_settings: RedisSettings) -> AsyncGenerator[Store, None]:
    """On the server's own clock: the thread renews by real time."""
    store = Store(redis_settings)
    yield store
    await store.close()


@pytest.fixture
async def lease(real_store: Store) -> AsyncGenerator[Lease, None]:
    row = EngineRow("e1", "blocked", "", "openai", 4, (), state=EngineState.READY, worker="w-1")
    await register_engine(real_store, row, lease_ms=int(LEASE_S * 1000))
    yield Lease(real_store, row, lease_s=LEASE_S, attempts=list)
    await retire_engine(real_store, row.pool, "e1", "w-1", EngineState.STOPPED, "")


async def left_s(store: Store) -> float:
    """Seconds until the lease lapses; negative: it has."""
    until = await store.commands.zscore(store.keys.pool("blocked").leases, "e1")
    seconds, micros = await store.commands.time()
    return until / 1000 - seconds - micros / 1e6


async def free_places(store: Store) -> float:
    """As schedulers see it."""
    return await store.commands.zscore(store.keys.pool("blocked").room, "e1")


def block(seconds: float) -> None:
    """Hold up the event loop."""
    time.sleep(seconds)


def renewals() -> float:
    return sample("sagellm_control_stand_in_renewals_total", pool="blocked", engine="e1")


async def test_a_blocked_loop_keeps_its_lease(real_store: Store, lease: Lease) -> None:
    async with StandIn(real_store, lease, patience_s=60):
        block(3 * LEASE_S)
        assert await left_s(real_store) > 0
        assert await free_places(real_store) == 0, "what is assigned now would wait for the loop"
        await lease.renew()
        assert await free_places(real_store) == 4
    assert renewals() > 0


async def test_without_the_stand_in_it_lapses(real_store: Store, lease: Lease) -> None:
    block(1.2 * LEASE_S)
    assert await left_s(real_store) < 0
    await lease.renew()


async def test_a_loop_that_never_comes_back_does_not(
    real_store: Store, lease: Lease, caplog: pytest.LogCaptureFixture
) -> None:
    async with StandIn(real_store, lease, patience_s=0.1 * LEASE_S):
        block(2.5 * LEASE_S)
        assert await left_s(real_store) < 0
    assert [r.levelno for r in caplog.records if "has not moved" in r.getMessage()] == [logging.ERROR]
    await lease.renew()


async def test_it_does_nothing_while_the_loop_renews(real_store: Store, lease: Lease) -> None:
    lease.lease_s = 3.0  # long enough that a busy machine's loop is not late
    await lease.renew()
    before = renewals()
    loop = asyncio.create_task(lease.run())
    async with StandIn(real_store, lease, patience_s=60):
        await asyncio.sleep(0.7 * lease.lease_s)
    loop.cancel()
    await asyncio.wait({loop})
    assert renewals() == before


async def test_a_lease_that_another_took_is_not_renewed(real_store: Store, lease: Lease) -> None:
    row = EngineRow("e1", "blocked", "", "openai", 4, (), state=EngineState.READY, worker="w-2")
    async with StandIn(real_store, lease, patience_s=60):
        await retire_engine(real_store, "blocked", "e1", "w-1", EngineState.STOPPED, "")
        await register_engine(real_store, row, lease_ms=60_000)
        block(2 * LEASE_S)
        assert await left_s(real_store) > 50, "the other's lease was touched"
        loop = asyncio.create_task(lease.run())
        await wait_until(loop.done, what="the loop knows that it lost the lease")
        assert isinstance(loop.exception(), LeaseLost)
    await retire_engine(real_store, "blocked", "e1", "w-2", EngineState.STOPPED, "")
