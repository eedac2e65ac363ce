"""A request whose record was lost comes back, whatever bounds what waits."""

from __future__ import annotations

import pytest

from sagellm_control.client.resubmission import Resubmission
from sagellm_control.store.steps.accept import AcceptLimits

from ..pool_driver import PoolDriver, new_request

BOUNDS = [
    AcceptLimits(max_waiting=1),
    AcceptLimits(max_waiting_bytes=1),
    AcceptLimits(tenant_waiting=1),
    AcceptLimits(tenant_waiting_bytes=1),
    AcceptLimits(class_waiting=(1, 1, 1, 1, 1)),
    AcceptLimits(class_waiting_bytes=(1, 1, 1, 1, 1)),
]


@pytest.mark.parametrize("limits", BOUNDS, ids=lambda limits: limits.bounds)
async def test_it_is_not_refused_because_others_wait(pool: PoolDriver, limits: AcceptLimits) -> None:
    await pool.accept("other", tenant="t")
    lost = new_request("lost", pool.name, tenant="t")
    assert await Resubmission(pool.store, lost, limits).restore(0.0) == 1000
    assert await pool.state("lost") == "queued"
