"""A pool without a READY engine: refused at once, or held for a while, with one call for an engine."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_control.client import QueueClient, held
from sagellm_control.keeper.departures import DepartureKeeper
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.accept import AcceptLimits
from sagellm_control.wire.keys import read_name
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import EngineState, RequestState

from ..waiting import wait_until
from .asking import CHAT_PATH, error_of, pieces
from .conftest import GOOD, StartEcho, StartSystem
from .echo_engine import EchoEngine
from .in_process import InProcessSystem

ASKED = {"model": "echo-1", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def engine(start_echo: StartEcho) -> EchoEngine:
    engine = await start_echo(slots=100)
    engine.answer(GOOD)
    return engine


async def scaled_to_zero(engine: EchoEngine, start_system: StartSystem, **settings: object) -> InProcessSystem:
    """A system whose only engine is not READY."""
    system = await start_system(engine, worker_slow_start_s=0, **settings)  # pyright: ignore[reportArgumentType]
    engine.healthy = False

    async def is_gone() -> bool:
        return [view.state for view in await system.engine_views()] == [EngineState.ERROR]

    await wait_until(is_gone, what="the engine is not READY")
    return system


async def wakes(system: InProcessSystem) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in await system.store.commands.xrange(system.store.keys.wake())]


def ask(system: InProcessSystem, request_id: str, **fields: object) -> asyncio.Task[tuple[int, bytes]]:
    async def send() -> tuple[int, bytes]:
        headers = {"X-Request-ID": request_id}
        async with system.session.post(system.url + CHAT_PATH, json=ASKED | fields, headers=headers) as response:
            return response.status, await response.read()

    return asyncio.create_task(send(), name=request_id)


async def test_by_default_it_refuses_at_once(engine: EchoEngine, start_system: StartSystem) -> None:
    system = await scaled_to_zero(engine, start_system)
    assert (await ask(system, "refused"))[0] == 503
    assert await wakes(system) == []


async def test_what_is_held_is_served_when_an_engine_comes(engine: EchoEngine, start_system: StartSystem) -> None:
    system = await scaled_to_zero(engine, start_system, gateways=2, gateway_hold_requests=100, gateway_hold_s=20)
    clients = [ask(system, f"held-{n}") for n in range(40)]
    for n in range(40):
        await system.until(f"held-{n}", RequestState.WAITING)
    assert await wakes(system) == [{b"pool": b"echo-1", b"for_ms": b"20000"}], "forty requests ask once"
    engine.healthy = True
    assert await asyncio.gather(*clients) == [(200, GOOD)] * 40
    await system.until_idle()


async def test_only_so_many_are_held(engine: EchoEngine, start_system: StartSystem) -> None:
    """By all gateways together."""
    system = await scaled_to_zero(engine, start_system, gateways=2, gateway_hold_requests=3, gateway_hold_s=20)
    held = [ask(system, f"held-{n}") for n in range(3)]
    for n in range(3):
        await system.until(f"held-{n}", RequestState.WAITING)
    for url in system.gateways:
        async with system.session.post(url + CHAT_PATH, json=ASKED) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert (await error_of(response))["code"] == "no_engine"
    engine.healthy = True
    assert await asyncio.gather(*held) == [(200, GOOD)] * 3


async def test_it_is_held_for_so_long(engine: EchoEngine, start_system: StartSystem) -> None:
    system = await scaled_to_zero(engine, start_system, gateway_hold_requests=10, gateway_hold_s=0.3)
    began = asyncio.get_running_loop().time()
    async with system.session.post(system.url + CHAT_PATH, json=ASKED) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        error = await error_of(response)
    assert asyncio.get_running_loop().time() - began >= 0.3
    assert (error["code"], error["message"]) == ("no_engine", "No engine became ready within 0.3 s.")
    assert await system.store.commands.zcard(system.store.keys.pool("echo-1").waiting) == 0


async def test_a_pool_is_held_for_long_after_its_last_engine(
    engine: EchoEngine, start_system: StartSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "SAY_EVERY_S", 0.05)
    system = await start_system(gateway_hold_requests=10, gateway_hold_s=20)
    keys, db = system.store.keys.pool("echo-1"), system.store.commands
    async with system.worker(engine.url):
        await wait_until(lambda: db.exists(keys.holding), what="a gateway holds for the pool")
        assert await ask(system, "first") == (200, GOOD)
    # A day later.
    for name in await db.smembers(keys.engines):
        await db.delete(keys.engine(read_name(name)))
    await DepartureKeeper(system.store, "echo-1").look()
    assert not await db.exists(keys.engines)
    client = ask(system, "later")
    await system.until("later", RequestState.WAITING)
    assert len(await wakes(system)) == 1
    async with system.worker(engine.url, slow_start_s=0):
        assert await client == (200, GOOD)


async def test_a_stream_is_kept_alive_meanwhile(engine: EchoEngine, start_system: StartSystem) -> None:
    system = await scaled_to_zero(
        engine, start_system, gateway_hold_requests=10, gateway_hold_s=0.6, gateway_keepalive_s=0.1
    )
    async with system.session.post(system.url + CHAT_PATH, json=ASKED | {"stream": True}) as response:
        assert response.status == 200
        *comments, last = [part async for part in pieces(response)]
    assert set(comments) == {b": waiting position=0"}
    assert b'"code":"no_engine"' in last


async def test_what_has_an_engine_is_not_given_up(engine: EchoEngine, start_system: StartSystem) -> None:
    release = asyncio.Event()
    engine.stream([b'data: {"n":1}\n\n', b"data: [DONE]\n\n"], gate=release)
    system = await scaled_to_zero(engine, start_system, gateway_hold_requests=10, gateway_hold_s=0.5)
    client = ask(system, "slow", stream=True)
    await system.until("slow", RequestState.WAITING)
    engine.healthy = True
    await system.until("slow", RequestState.RUNNING)
    await asyncio.sleep(0.6)
    release.set()
    assert await client == (200, b'data: {"n":1}\n\ndata: [DONE]\n\n')


async def test_a_client_that_leaves_is_not_held(engine: EchoEngine, start_system: StartSystem) -> None:
    system = await scaled_to_zero(engine, start_system, gateway_hold_requests=1, gateway_hold_s=20)
    client = ask(system, "hasty")
    await system.until("hasty", RequestState.WAITING)
    client.cancel()
    assert await system.until_outcome("hasty") == "cancelled"


async def test_a_thousand_at_once_ask_once(
    engine: EchoEngine, start_system: StartSystem, redis_settings: RedisSettings
) -> None:
    system = await scaled_to_zero(engine, start_system)
    limits = AcceptLimits(hold_requests=1000, hold_s=60)
    async with QueueClient.connect(redis_settings, limits) as one, QueueClient.connect(redis_settings, limits) as other:
        await asyncio.gather(
            *(
                (one, other)[n % 2].submit("echo-1", ASKED, request_id=f"r{n}", priority=RequestPriority.LOW)
                for n in range(1000)
            )
        )
        assert len(await wakes(system)) == 1
        engine.healthy = True
        results = await asyncio.gather(*((one, other)[n % 2].result(f"r{n}") for n in range(1000)))
    assert {result.body for result in results} == {GOOD}
