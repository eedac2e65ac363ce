"""Workers learn how fast their engines are, and schedulers what to expect of requests."""

from __future__ import annotations

from sagellm_control.store.steps.policy import set_policy

from ..waiting import wait_until
from .asking import MODEL, data, post_chat
from .conftest import StartEngine, StartSystem


async def test_a_row_shows_the_measured_speed(start_engine: StartEngine, start_system: StartSystem) -> None:
    engine = await start_engine(prefill_tokens_per_s=2000, tpot_ms=5, tpot_per_running_ms=0)
    system = await start_system(engine, worker_lease_s=0.5)
    prompt = [{"role": "user", "content": "word " * 400}]
    for _ in range(3):
        async with post_chat(system, {}, stream=True, messages=prompt, max_tokens=30) as response:
            assert [event async for event in data(response)][-1] == "[DONE]"

    async def measured() -> bool:
        (view,) = await system.engine_views()
        return view.prefill_tps != 8000.0 and view.step_ms < 14

    await wait_until(measured, what="the row shows what was measured")


async def test_lengths_are_learned(start_engine: StartEngine, start_system: StartSystem) -> None:
    system = await start_system(await start_engine())
    for stream in (True, False):
        async with post_chat(system, {}, stream=stream, max_tokens=40, user="t") as response:
            await response.read()
    await system.until_idle()
    lengths = await system.store.commands.hgetall(system.store.keys.pool(MODEL).lengths)
    assert lengths[b""].split() == [b"2", b"40"]
    assert lengths[b"\x1f6\x1ft"] == lengths[b""] == lengths[b"\x1f6"]


async def test_objectives_met_are_counted(start_engine: StartEngine, start_system: StartSystem) -> None:
    system = await start_system(await start_engine(prefill_tokens_per_s=100))
    for slo_ms in ("60000", "1"):
        async with post_chat(system, {"X-SLO-Deadline-Ms": slo_ms}) as response:
            await response.read()
    await system.until_idle()
    counters = await system.store.commands.hgetall(system.store.keys.pool(MODEL).counters)
    assert (counters[b"slo_met"], counters[b"slo_missed"]) == (b"1", b"1")


async def test_a_pool_with_an_objective_has_a_pace(start_engine: StartEngine, start_system: StartSystem) -> None:
    system = await start_system(await start_engine(tpot_ms=5), worker_lease_s=0.5)

    async def pace() -> float:
        (view,) = await system.engine_views()
        return view.pace_tps

    assert await pace() == 0.0
    await set_policy(system.store, MODEL, {}, {"tpot_slo_ms": "60"})
    await wait_until(pace, what="the engine has a pace")
    async with post_chat(system, {}, stream=True, max_tokens=20) as response:
        assert [event async for event in data(response)][-1] == "[DONE]"
    await set_policy(system.store, MODEL, {}, {"tpot_slo_ms": ""})

    async def off() -> bool:
        return await pace() == 0.0

    await wait_until(off, what="the pace is off again")
