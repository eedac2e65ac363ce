"""Many arrivals go to the server in batches, the next of which is ready when the one before is answered."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_control.scheduler import arrival_desk
from sagellm_control.store.connect import Store
from sagellm_control.store.steps.admit import Admission, Admitted, admit
from sagellm_control.store.steps.rules import Rules

from ..pool_driver import PoolDriver
from ..waiting import wait_until
from .running import everything_is_settled, schedulers


@pytest.mark.parametrize("slots", [60, 7])
async def test_the_next_batch_is_ready_and_the_order_kept(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    under_way = most = 0

    async def counted(
        store: Store, name: str, admissions: list[Admission], rules: Rules, turn: asyncio.Lock
    ) -> Admitted | None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await admit(store, name, admissions, rules, turn=turn)
        finally:
            under_way -= 1

    monkeypatch.setattr(arrival_desk, "admit", counted)
    await pool.engine(slots=slots)
    ids = [f"r{i:02}" for i in range(60)]
    for request_id in ids:
        await pool.accept(request_id)
        pool.clock.advance(1)
    async with schedulers(pool, batch=4):
        await wait_until(lambda: everything_is_settled(pool), what="all have been dealt with")
    assert most == 2
    # In the order of arrival nevertheless.
    assert await pool.holds() == set(ids[:slots])
    assert await pool.waiting_ids() == ids[slots:]
