"""Why a request waits, in words."""

from __future__ import annotations

import pytest

from sagellm_control.scheduler.explain import Explanation, explain_request
from sagellm_control.scheduler.open_engines import EXCLUDED_FOR_MS
from sagellm_control.store.views import find_request

from ..pool_driver import PoolDriver


async def explained(pool: PoolDriver, request_id: str) -> Explanation:
    view = await find_request(pool.store, request_id)
    assert view is not None
    return await explain_request(pool.store, view)


@pytest.mark.parametrize("passed_ms", [0.0, EXCLUDED_FOR_MS])
async def test_one_that_waits_for_others_than_the_engine_that_failed_it(pool: PoolDriver, passed_ms: float) -> None:
    await pool.engine("e2")
    await pool.running("busy", engine="e2")
    await pool.engine("e1")
    await pool.running("a")
    await pool.requeue("a")
    pool.clock.advance(passed_ms)
    told = await explained(pool, "a")
    failed, full = sorted(told.engines, key=lambda engine: engine.engine)
    assert full.why == "all of its 1 places are taken"
    if passed_ms:
        assert told.waits_for == "a scheduler to give it to e1"
        assert failed.why == "it has failed this request before, and gets it only where no other has room"
    else:
        assert told.waits_for == "another engine than e1, which has failed it, to have room; in 5.0 s e1 will do"
        assert failed.why == "it has failed this request, which waits for other engines for another 5.0 s"
