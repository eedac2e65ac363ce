"""While a request waits its connection is kept open, and it is served in the order of the policy."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from sagellm_control.client.pools import Pools
from sagellm_control.wire.states import RequestState

from ..samples import sample
from ..waiting import wait_until
from .asking import CHAT_PATH, MODEL, chat, data, delta_of, expected_text, pieces
from .conftest import StartEcho, StartEngine, StartSystem
from .echo_engine import EchoEngine
from .in_process import InProcessSystem


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_waits_nothing_costs(start_engine: StartEngine, start_system: StartSystem, stream: bool) -> None:
    """No comment comes before an answer that is there at once."""
    system = await start_system(await start_engine(), gateway_keepalive_s=0.5)
    async with system.session.post(system.url + CHAT_PATH, json=chat(stream=stream)) as response:
        assert b": waiting" not in await response.read()


async def test_comments_while_it_waits_and_then_the_tokens(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    engine = await start_engine(slots=1, tpot_ms=10)
    system = await start_system(engine, gateway_keepalive_s=0.05)
    ahead = chat("ahead", max_tokens=100_000, stream=True)
    async with system.session.post(system.url + CHAT_PATH, json=ahead) as busy:
        await anext(data(busy))
        waits = chat("waits", max_tokens=10, stream=True)
        async with system.session.post(system.url + CHAT_PATH, json=waits) as response:
            assert response.status == 200
            parts = pieces(response)
            for _ in range(3):
                assert re.fullmatch(rb": waiting( position=0( wait_s=[\d.]+)?)?", await anext(parts))
            busy.close()  # its place comes free
            async with asyncio.timeout(10):
                events = [part async for part in parts if not part.startswith(b": waiting")]
    assert events[-1] == b"data: [DONE]"
    assert b"Answer" in events[0]
    assert len(events) == 10 + 2


async def test_how_wrong_the_wait_was_that_a_client_was_told(
    start_engine: StartEngine, start_system: StartSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pools, "drain_rate", lambda *_: 0.02)  # so the first in line is told 50 s
    engine = await start_engine(slots=1, tpot_ms=10)
    system = await start_system(engine, gateway_keepalive_s=0.05)

    def observed(name: str, came: str) -> float:
        metric = f"sagellm_control_flow_control_wait_prediction_error_seconds_{name}"
        return sample(metric, pool=MODEL, came=came)

    before = {(name, came): observed(name, came) for name in ("count", "sum") for came in ("sooner", "later")}
    async with system.session.post(system.url + CHAT_PATH, json=chat("ahead", max_tokens=100_000, stream=True)) as busy:
        assert busy.status == 200, await busy.text()
        await anext(data(busy))
        async with system.session.post(
            system.url + CHAT_PATH, json=chat("waits", max_tokens=3, stream=True)
        ) as response:
            parts = pieces(response)
            while await anext(parts) != b": waiting position=0 wait_s=50":
                pass
            busy.close()
            async with asyncio.timeout(10):
                assert [part async for part in parts][-1] == b"data: [DONE]"
    assert observed("count", "sooner") - before["count", "sooner"] == 1
    assert 30 < observed("sum", "sooner") - before["sum", "sooner"] < 50
    assert observed("count", "later") == before["count", "later"]


async def test_comments_while_the_engine_is_silent(start_echo: StartEcho, start_system: StartSystem) -> None:
    echo = await start_echo()
    system = await start_system(echo, gateway_keepalive_s=0.05)
    gate = asyncio.Event()
    echo.stream([b'data: {"a":1}\n\n', b"data: [DONE]\n\n"], gate=gate)
    body = {"model": "echo-1", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    async with system.session.post(system.url + CHAT_PATH, json=body) as response:
        parts = pieces(response)
        assert await anext(parts) == b'data: {"a":1}'
        assert [await anext(parts) for _ in range(2)] == [b": waiting"] * 2
        gate.set()
        assert [part async for part in parts if part != b": waiting"] == [b"data: [DONE]"]


@dataclass
class _Line:
    """Requests in front of an engine with one place, which is held until the line stands."""

    system: InProcessSystem
    echo: EchoEngine
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    clients: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    async def begin(self) -> None:
        """Somebody takes the place."""

        async def answering(_: web.Request) -> web.Response:
            await self.gate.wait()
            return web.json_response({})

        self.echo.respond(answering)
        await self.join("holds-the-place", "NORMAL", RequestState.RUNNING)

    async def join(self, request_id: str, priority: str, state: RequestState = RequestState.WAITING) -> None:
        """One more, behind (or ahead of) those that wait."""

        async def ask() -> None:
            headers = {"X-Request-ID": request_id, "X-Request-Priority": priority}
            body = {"model": "echo-1", "messages": [{"role": "user", "content": "hi"}]}
            async with self.system.session.post(self.system.url + CHAT_PATH, json=body, headers=headers) as response:
                assert response.status == 200

        self.clients.append(asyncio.create_task(ask()))
        await self.system.until(request_id, state)

    async def served(self) -> list[str]:
        """Let it move; the order in which those in it reached the engine."""
        self.gate.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*self.clients)
        return [reached.headers["X-Request-ID"] for reached in self.echo.reached[1:]]


@pytest.fixture
async def one_place(start_echo: StartEcho) -> EchoEngine:
    return await start_echo(slots=1)


CLASSES = ["BACKGROUND", "LOW", "NORMAL", "HIGH", "CRITICAL"]


@pytest.mark.parametrize("schedulers", [1, 3])
async def test_the_urgent_goes_first_though_it_came_later(
    one_place: EchoEngine, start_system: StartSystem, schedulers: int
) -> None:
    line = _Line(await start_system(one_place, schedulers=schedulers), one_place)
    await line.begin()
    for name in (*CLASSES, *CLASSES):
        await line.join(f"{name}-{len(line.clients)}", name)
    served = [request_id.split("-") for request_id in await line.served()]
    assert [name for name, _ in served] == [name for name in reversed(CLASSES) for _ in range(2)]
    assert all(int(first) < int(second) for (_, first), (_, second) in zip(served[::2], served[1::2], strict=True))


@pytest.mark.parametrize("schedulers", [1, 3])
async def test_first_come_first_served(one_place: EchoEngine, start_system: StartSystem, schedulers: int) -> None:
    system = await start_system(one_place, schedulers=schedulers, scheduler_policy="fifo")
    line = _Line(system, one_place)
    await line.begin()
    for name in (*CLASSES, *CLASSES):
        await line.join(f"{name}-{len(line.clients)}", name)
    assert await line.served() == [f"{name}-{i + 1}" for i, name in enumerate((*CLASSES, *CLASSES))]


async def test_who_waits_long_enough_goes_before_the_urgent(one_place: EchoEngine, start_system: StartSystem) -> None:
    line = _Line(await start_system(one_place, scheduler_aging_s=0.02), one_place)
    await line.begin()
    await line.join("old", "BACKGROUND")
    await wait_until(lambda: _age_over(line.system, "old", 4 * 0.02))
    await line.join("new", "CRITICAL")
    assert await line.served() == ["old", "new"]


async def _age_over(system: InProcessSystem, request_id: str, age_s: float) -> bool:
    view = await system.find(request_id)
    return view is not None and view.age_s > age_s


async def test_all_places_are_used_and_none_twice(start_engine: StartEngine, start_system: StartSystem) -> None:
    engines = [await start_engine(slots=slots, tpot_ms=5) for slots in (1, 2, 3)]
    system = await start_system(*engines, schedulers=3)

    async def ask(number: int) -> None:
        body = chat(f"client {number}", max_tokens=10, stream=True)
        async with system.session.post(system.url + CHAT_PATH, json=body) as response:
            text = "".join([delta_of(event) async for event in data(response)])
        assert text == expected_text(f"client {number}", 10)

    async with asyncio.timeout(20):
        await asyncio.gather(*(ask(number) for number in range(60)))
    for engine, slots in zip(engines, (1, 2, 3), strict=True):
        state = await engine.state()
        assert state["peak_running"] == slots
        assert state["waiting"] == 0
