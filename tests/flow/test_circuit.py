"""Engines that fail most of what they get: each in front of a real socket."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from sagellm_control.store.steps.engines import register_engine
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.states import EngineState, RequestState

from ..waiting import wait_until
from .conftest import GOOD, StartEcho, StartSystem
from .echo_engine import EchoEngine
from .in_process import IN_TURN, InProcessSystem
from .test_engine_trouble import ask, until_view, view_of


async def another_engine(system: InProcessSystem) -> None:
    """One that would take requests, but is given none."""
    row = EngineRow("other", "echo-1", "", "openai", 1, ("echo-1",), state=EngineState.READY, worker="w", limit=0)
    assert await register_engine(system.store, row, lease_ms=600_000) is None


@pytest.mark.parametrize("status", [500, 401])
async def test_a_circuit_opens_lets_one_through_and_closes(
    bad: EchoEngine, start_system: StartSystem, status: int
) -> None:
    """Of one that fails, or that was started again with another key."""
    bad.answer(b"{}", status=status)
    system = await start_system(
        bad, worker_breaker_min_requests=4, worker_breaker_open_s=0.3, worker_max_attempts=1, worker_slow_start_s=60
    )
    await another_engine(system)
    for _ in range(4):
        assert (await ask(system))[0] == status
    view = await until_view(system, bad, lambda v: v.state is EngineState.ERROR)
    assert view.reason == "circuit open: it failed 4 of 4 requests within 60 s"
    # Half-open: of many that come, one reaches it.
    release = asyncio.Event()

    async def held(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response(body=GOOD, content_type="application/json")

    bad.respond(held)
    view = await until_view(system, bad, lambda v: v.state is EngineState.READY)
    assert view.reason.startswith("circuit half-open")
    clients = [asyncio.create_task(ask(system, f"client-{n}")) for n in range(4)]
    await wait_until(lambda: len(bad.reached) == 5, what="one is let through")
    for n in range(4):
        await system.until(f"client-{n}", RequestState.WAITING, RequestState.RUNNING)
    await asyncio.sleep(0.25)  # a probe of its health does not let another one through
    assert len(bad.reached) == 5
    release.set()
    assert await asyncio.gather(*clients) == [(200, GOOD)] * 4
    # Recovered, it gets its places one by one.
    view = await until_view(system, bad, lambda v: v.reason.startswith("slow start"))
    assert view.reason == "slow start: 1 of 4 places"


async def test_a_trial_that_fails_keeps_it_open(bad: EchoEngine, start_system: StartSystem) -> None:
    bad.answer(b"{}", status=500)
    system = await start_system(bad, worker_breaker_min_requests=2, worker_breaker_open_s=0.2, worker_max_attempts=1)
    await another_engine(system)
    for _ in range(2):
        assert (await ask(system))[0] == 500
    await until_view(system, bad, lambda v: v.state is EngineState.ERROR)
    await until_view(system, bad, lambda v: v.state is EngineState.READY)
    assert (await ask(system))[0] == 500
    await until_view(system, bad, lambda v: v.state is EngineState.ERROR)
    assert len(bad.reached) == 3


async def test_engines_that_all_fail_are_asked_on(start_echo: StartEcho, start_system: StartSystem) -> None:
    """Their own errors, and what they do answer, serve a client better than a pool without an engine."""
    engines = [await start_echo(), await start_echo()]
    for engine in engines:
        engine.answer(b"{}", status=500)
    system = await start_system(*engines, **IN_TURN, worker_breaker_min_requests=3, worker_max_attempts=1)

    async def all_are_last_resorts() -> bool:
        assert (await ask(system))[0] in (500, 503)
        views = await system.engine_views()
        return all(v.state is EngineState.READY and "no other engine" in v.reason for v in views)

    await wait_until(all_are_last_resorts, what="both serve on")
    for engine in engines:
        engine.reached.clear()

    async def both_are_asked() -> bool:
        assert (await ask(system))[0] == 500
        return all(engine.reached for engine in engines)

    await wait_until(both_are_asked, what="both are asked")
    for engine in engines:
        engine.answer(GOOD)
    assert await ask(system) == (200, GOOD)


async def test_the_other_engine_is_spared_the_failures(
    bad: EchoEngine, good: EchoEngine, start_system: StartSystem
) -> None:
    bad.answer(b"{}", status=500)
    system = await start_system(bad, good, **IN_TURN, worker_breaker_min_requests=3, worker_breaker_open_s=60)
    for _ in range(20):
        assert await ask(system) == (200, GOOD)
    assert len(bad.reached) == 3
    async with system.session.get(f"{system.url}/metrics") as response:
        pool_and_engine = f'engine="{(await view_of(system, bad)).engine_id}",pool="echo-1"'
        assert f"sagellm_control_worker_cb_state{{{pool_and_engine}}} 1.0" in await response.text()
