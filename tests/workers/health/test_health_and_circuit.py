"""What a watched engine is given, by how its requests end."""

from __future__ import annotations

import pytest

from sagellm_control.wire.states import EngineState
from sagellm_workers.health.breaker import BreakerSettings
from sagellm_workers.health.health import NOT_ANSWERING, HealthSettings

from ...waiting import wait_until
from .watched_engine import Engine, RememberingLease, watching


@pytest.mark.parametrize("result", ["engine_unreachable", "engine_broken", "engine_timeout", "engine_error"])
async def test_failures_open_the_circuit(engine: Engine, lease: RememberingLease, result: str) -> None:
    lease.held = 1
    async with watching(engine, lease) as watch:
        for _ in range(4):
            watch.attempt_ended(result)
        await wait_until(lambda: lease.last[0] is EngineState.ERROR)
        assert lease.last[1] == "circuit open: it failed 4 of 4 requests within 60 s"
        # One more than what it holds from before, however often it is looked at.
        await wait_until(lambda: lease.last[2] == 2)
        lease.held = 2
        before = engine.probes
        await wait_until(lambda: engine.probes > before + 2)
        assert lease.last[2] == 2
        watch.attempt_ended("completed")
        await wait_until(lambda: lease.last == (EngineState.READY, "", None))


async def test_the_circuit_takes_no_engine_away_that_is_the_last(
    engine: Engine, lease: RememberingLease, caplog: pytest.LogCaptureFixture
) -> None:
    patient = HealthSettings(interval_s=0.01, slow_start_s=3600, breaker=BreakerSettings(min_requests=4, open_s=3600))
    engine.others = False
    async with watching(engine, lease, patient) as watch:
        for _ in range(4):
            watch.attempt_ended("engine_error")
        await wait_until(lambda: lease.last_resort)
        assert set(lease.states) == {EngineState.READY}
        assert lease.last[1].startswith("circuit open: it failed 4 of 4 requests")
        assert lease.last[2] is None, "with all its places"
        engine.others = True
        await wait_until(lambda: lease.last[0] is EngineState.ERROR)
        assert not lease.last_resort
        engine.others = False
        await wait_until(lambda: lease.last_resort)
        engine.well = False
        await wait_until(lambda: lease.last == (EngineState.ERROR, NOT_ANSWERING, None), what="it is dead")
    opened = "circuit open: it failed 4 of 4 requests within 60 s"
    alone = f"engine e1 is READY as a last resort: {opened}; no other engine could take its requests"
    spared, dead = f"engine e1 is in ERROR: {opened}", f"engine e1 is in ERROR: {NOT_ANSWERING}"
    assert [record.getMessage() for record in caplog.records] == [alone, spared, alone, dead]


async def test_a_last_engine_whose_circuit_closes_is_not_started_slowly(
    engine: Engine, lease: RememberingLease
) -> None:
    hasty = HealthSettings(interval_s=0.01, slow_start_s=3600, breaker=BreakerSettings(min_requests=4, open_s=0.01))
    engine.others = False
    async with watching(engine, lease, hasty) as watch:
        for _ in range(4):
            watch.attempt_ended("engine_error")
        await wait_until(lambda: lease.last_resort)

        def closed() -> bool:
            watch.attempt_ended("completed")
            return lease.last == (EngineState.READY, "", None)

        await wait_until(closed)
    assert set(lease.states) == {EngineState.READY}


@pytest.mark.parametrize("result", ["cancelled", "expired", "returned", "lost", "engine_busy", "refused", "completed"])
async def test_what_is_not_the_engines_failure_does_not(engine: Engine, lease: RememberingLease, result: str) -> None:
    async with watching(engine, lease) as watch:
        for _ in range(20):
            watch.attempt_ended(result)
        before = engine.probes
        await wait_until(lambda: engine.probes > before + 1)
    assert set(lease.states) == {EngineState.READY}
