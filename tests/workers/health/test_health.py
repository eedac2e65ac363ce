"""What a watched engine is given: by probes and by pauses that it asks for."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from sagellm_control.wire.states import EngineState
from sagellm_workers.health import health
from sagellm_workers.health.health import (
    FAILURES_TO_ERROR,
    NOT_ANSWERING,
    PROBE_PATIENCE_S,
    HealthSettings,
    HealthWatch,
)

from ...waiting import wait_until
from .watched_engine import ROW, SETTINGS, Engine, RememberingLease, watching


async def test_one_bad_probe_is_no_outage(engine: Engine, lease: RememberingLease) -> None:
    async with watching(engine, lease):
        engine.well = False
        await wait_until(lambda: lease.last == (EngineState.ERROR, NOT_ANSWERING, None))
        assert engine.probes >= FAILURES_TO_ERROR
        engine.well = True
        await wait_until(lambda: lease.last == (EngineState.READY, "", None))


async def test_going_down_and_coming_back_are_in_the_log_once_each(
    engine: Engine, lease: RememberingLease, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(engine, lease):
        for _ in range(2):
            engine.well = False
            await wait_until(lambda: lease.states[-3:] == [EngineState.ERROR] * 3)
            engine.well = True
            await wait_until(lambda: lease.states[-3:] == [EngineState.READY] * 3)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    down, back = f"engine e1 is in ERROR: {NOT_ANSWERING}", "engine e1 is READY again"
    assert told == [("WARNING", down), ("WARNING", back)] * 2


async def test_one_that_did_not_answer_when_it_was_registered_is_given_nothing_until_it_does(
    engine: Engine, lease: RememberingLease
) -> None:
    engine.well = False
    async with watching(engine, lease, row=replace(ROW, state=EngineState.ERROR)):
        await wait_until(lambda: engine.probes > 1)
        assert set(lease.states) == {EngineState.ERROR}
        engine.well = True
        await wait_until(lambda: lease.last == (EngineState.READY, "", None))


async def test_one_that_answers_at_once_has_been_well(engine: Engine, lease: RememberingLease) -> None:
    """The worker before was lost, and not the engine: it need not start slowly."""
    slowly = replace(SETTINGS, interval_s=300, slow_start_s=300)
    async with watching(engine, lease, slowly, row=replace(ROW, state=EngineState.ERROR)):
        await wait_until(lambda: lease.last == (EngineState.READY, "", None))


async def test_an_engine_that_goes_on_with_an_answer_is_alive(engine: Engine, lease: RememberingLease) -> None:
    gone: list[float] = []
    async with watching(engine, lease, replace(SETTINGS, gone_after_s=0)) as watch:
        watch.on_gone = gone.append
        engine.well, engine.speaks = False, True
        await wait_until(lambda: engine.probes > 3 * FAILURES_TO_ERROR)
        assert set(lease.states) == {EngineState.READY}
        assert not gone
        engine.speaks = False
        await wait_until(lambda: lease.last == (EngineState.ERROR, NOT_ANSWERING, None))
        engine.speaks = True
        await wait_until(lambda: lease.last == (EngineState.READY, "", None))


async def test_what_it_said_between_two_probes_counts(engine: Engine, lease: RememberingLease) -> None:
    """A probe that is refused at once leaves no time to hear anything meanwhile."""
    async with watching(engine, lease) as watch:
        engine.well = False

        def probed_and_heard() -> bool:
            engine.heard_at = time.monotonic()
            watch.attempt_ended("completed")
            return engine.probes > 3 * FAILURES_TO_ERROR

        await wait_until(probed_and_heard)
        assert lease.states.count(EngineState.ERROR) == 0


async def test_an_engine_is_gone_when_it_has_been_silent_for_long_enough(
    engine: Engine, lease: RememberingLease
) -> None:
    gone: list[float] = []
    async with watching(engine, lease, replace(SETTINGS, gone_after_s=0.2)) as watch:
        watch.on_gone = gone.append
        before, engine.well = time.monotonic(), False
        await wait_until(lambda: lease.last[0] is EngineState.ERROR)
        await wait_until(lambda: len(gone) > 1)
        assert time.monotonic() - before >= 0.2
        assert before <= gone[0] == gone[1]
        engine.well = True
        await wait_until(lambda: lease.last[0] is EngineState.READY)


async def test_an_attempt_that_suspects_a_silent_engine_alone_gives_nothing_back(
    engine: Engine, lease: RememberingLease
) -> None:
    gone: list[float] = []
    async with watching(engine, lease, replace(SETTINGS, interval_s=3600, gone_after_s=0)) as watch:
        watch.on_gone = gone.append
        engine.well = False
        watch.attempt_ended("engine_broken")
        await wait_until(lambda: lease.last[0] is EngineState.ERROR)
        assert not gone


async def test_a_bad_probe_after_an_attempt_that_found_nobody_is_one(engine: Engine, lease: RememberingLease) -> None:
    patient = HealthSettings(interval_s=3600, slow_start_s=0)
    async with watching(engine, lease, patient) as watch:
        engine.well = False
        watch.attempt_ended("engine_unreachable")
        await wait_until(lambda: lease.last[0] is EngineState.ERROR)
        assert engine.probes == 1


async def test_one_that_is_back_is_looked_at_before_it_is_given_anything(
    engine: Engine, lease: RememberingLease
) -> None:
    looked, go_on = asyncio.Event(), asyncio.Event()

    async def returned() -> None:
        looked.set()
        await go_on.wait()

    async with watching(engine, lease, returned=returned):
        await wait_until(lambda: engine.probes > 2)
        assert not looked.is_set(), "it was never away"
        engine.well = False
        await wait_until(lambda: lease.last[0] is EngineState.ERROR)
        engine.well = True
        await looked.wait()
        assert lease.last[0] is EngineState.ERROR
        go_on.set()
        await wait_until(lambda: lease.last == (EngineState.READY, "", None))


async def test_one_that_an_attempt_found_gone_is_looked_at_once_an_interval(
    engine: Engine, lease: RememberingLease
) -> None:
    looks = 0

    async def returned() -> None:
        nonlocal looks
        looks += 1

    async with watching(engine, lease, replace(SETTINGS, interval_s=600), returned) as watch:
        for _ in range(3):
            watch.attempt_ended("engine_unreachable")
            await watch.confirm()
    assert (engine.probes, looks) == (3, 1)


async def test_more_places_are_given_when_there_are_more(engine: Engine, lease: RememberingLease) -> None:
    patient = replace(SETTINGS, interval_s=600, slow_start_s=3600)
    engine.well = False
    async with watching(engine, lease, patient) as watch:
        watch.attempt_ended("engine_unreachable")
        await wait_until(lambda: lease.last[0] is EngineState.ERROR)
        engine.well = True
        watch.attempt_ended("engine_unreachable")
        await wait_until(lambda: lease.last == (EngineState.READY, "slow start: 1 of 6 places", 1))
        watch.take_over(engine, replace(ROW, slots=1))
        await wait_until(lambda: lease.last == (EngineState.READY, "slow start: 1 of 3 places", 1))


@pytest.mark.parametrize("well", [True, False])
async def test_what_an_attempt_suspects_is_known_when_it_is_confirmed(
    engine: Engine, lease: RememberingLease, well: bool
) -> None:
    engine.well = well
    async with watching(engine, lease, replace(SETTINGS, interval_s=600)) as watch:
        watch.attempt_ended("engine_unreachable")
        await watch.confirm()
        assert engine.probes == 1
        assert lease.last == ((EngineState.READY, "", None) if well else (EngineState.ERROR, NOT_ANSWERING, None))


async def test_a_probe_without_an_answer_is_not_waited_for(engine: Engine, lease: RememberingLease) -> None:
    async def hang() -> bool:
        await asyncio.sleep(3600)
        return False

    engine.healthy = hang
    async with watching(engine, lease) as watch:
        async with asyncio.timeout(PROBE_PATIENCE_S + 5):
            await watch.confirm()
            watch.stop()
            await watch.confirm()
        assert lease.states == []


async def test_a_pause_is_in_force_when_it_returns(engine: Engine, lease: RememberingLease) -> None:
    async with watching(engine, lease) as watch:
        await watch.pause(1000)
        assert lease.last == (EngineState.READY, "it asked for a pause of 0.05 s", 0)
        await wait_until(lambda: lease.last == (EngineState.READY, "", None))


async def test_who_drains_is_not_made_ready_by_a_pause(engine: Engine, lease: RememberingLease) -> None:
    watch = HealthWatch(engine, ROW, lease, SETTINGS, others_serve=engine.others_serve)  # type: ignore[arg-type]
    running = asyncio.create_task(watch.run())
    await wait_until(lambda: lease.states)
    watch.stop()
    lease.report(EngineState.DRAINING, "its worker is stopping")
    await watch.pause(5)
    watch.attempt_ended("engine_unreachable")
    await running
    assert lease.last[0] is EngineState.DRAINING


async def test_no_pause_at_all_is_a_short_one(
    engine: Engine, lease: RememberingLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is busy, and says "come back in 0 seconds", is asked without a break."""
    monkeypatch.setattr(health, "LEAST_PAUSE_S", 0.01)
    async with watching(engine, lease) as watch:
        await watch.pause(0)
        assert lease.last == (EngineState.READY, "it asked for a pause of 0.01 s", 0)
