"""An ``Idempotency-Key`` makes a retry the same request: one run of the engine, one answer for all who ask."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from sagellm_control.client.pools import Pools
from sagellm_control.gateway.request_headers import idempotent_id
from sagellm_control.wire.states import RequestState

from ..waiting import wait_until
from .asking import CHAT_PATH, error_of, expected_text, post_chat
from .conftest import ENDLESS, SimulatedEngine, StartEcho, StartEngine, StartSystem
from .in_process import InProcessSystem
from .occupying import occupy


@pytest.fixture
async def engine(start_engine: StartEngine) -> SimulatedEngine:
    return await start_engine()


@pytest.fixture
async def system(engine: SimulatedEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(engine)


async def test_an_idempotency_key_gives_the_same_answer_again(
    engine: SimulatedEngine, two_gateways: InProcessSystem
) -> None:
    answers: list[tuple[str, bytes]] = []
    for gateway in (0, 0, 1):
        async with post_chat(two_gateways, {"Idempotency-Key": "key one"}, gateway) as response:
            assert response.status == 200
            answers.append((response.headers["X-Request-ID"], await response.read()))
    assert answers[0] == answers[1] == answers[2]
    assert (await engine.state())["total_requests"] == 1


async def test_two_at_once_with_one_key_share_one_stream(start_engine: StartEngine, start_system: StartSystem) -> None:
    engine = await start_engine(tpot_ms=3)
    system = await start_system(engine, gateways=2)
    key = {"Idempotency-Key": "shared"}

    async def ask(gateway: int) -> bytes:
        async with asyncio.timeout(20), post_chat(system, key, gateway, stream=True, max_tokens=30) as response:
            assert response.status == 200
            return await response.read()

    answers = await asyncio.gather(*(ask(gateway) for gateway in (0, 1, 0, 1)))
    assert len(set(answers)) == 1
    assert answers[0].endswith(b"data: [DONE]\n\n")
    assert expected_text("hello", 30).split()[-1].encode() in answers[0]
    assert (await engine.state())["total_requests"] == 1


async def test_a_key_that_was_used_with_another_body(engine: SimulatedEngine, two_gateways: InProcessSystem) -> None:
    async with post_chat(two_gateways, {"Idempotency-Key": "k"}) as response:
        assert response.status == 200
    async with post_chat(two_gateways, {"Idempotency-Key": "k"}, gateway=1, max_tokens=5) as response:
        assert response.status == 422
        error = await error_of(response)
    assert (error["param"], error["code"]) == ("Idempotency-Key", "idempotency_key_reused")
    assert (await engine.state())["total_requests"] == 1


async def test_a_key_that_was_used_at_another_endpoint(engine: SimulatedEngine, system: InProcessSystem) -> None:
    body = {"model": "simulated-1", "max_tokens": 2, "prompt": "a", "messages": [{"role": "user", "content": "a"}]}
    found: list[int] = []
    for path in ("/v1/completions", CHAT_PATH, "/v1/completions"):
        async with system.session.post(system.url + path, json=body, headers={"Idempotency-Key": "k"}) as response:
            found.append(response.status)
    assert found == [200, 422, 200]
    assert (await engine.state())["total_requests"] == 1


async def test_each_user_has_idempotency_keys_of_its_own(engine: SimulatedEngine, system: InProcessSystem) -> None:
    for user in ("anna", "ben"):
        async with post_chat(system, {"Idempotency-Key": "k"}, user=user) as response:
            assert response.status == 200
    assert (await engine.state())["total_requests"] == 2


async def test_a_retry_after_the_connection_broke_is_answered(start_echo: StartEcho, start_system: StartSystem) -> None:
    """That is what the key is for, so a client that leaves does not cancel a request that has one."""
    echo = await start_echo()
    system = await start_system(echo, gateways=2)
    gate = asyncio.Event()

    async def answering(_: web.Request) -> web.Response:
        await gate.wait()
        return web.json_response({"answer": 42})

    echo.respond(answering)

    async def ask(gateway: int) -> tuple[int, bytes]:
        body = {"model": "echo-1", "messages": [{"role": "user", "content": "hi"}]}
        headers = {"Idempotency-Key": "broken line"}
        async with system.session.post(system.gateways[gateway] + CHAT_PATH, json=body, headers=headers) as response:
            return response.status, await response.read()

    first = asyncio.create_task(ask(0))
    await wait_until(lambda: echo.reached, what="the engine has the request")
    first.cancel()
    await wait_until(lambda: _open_requests(system, 0), what="the gateway has seen that its client left")
    again = asyncio.create_task(ask(1))
    await wait_until(lambda: _open_requests(system, 1), what="the retry is there")
    gate.set()
    async with asyncio.timeout(20):
        assert await again == (200, b'{"answer": 42}')
    assert len(echo.reached) == 1
    assert echo.aborted == 0


@pytest.mark.parametrize("first_stays", [False, True])
async def test_one_of_two_may_leave(start_engine: StartEngine, start_system: StartSystem, first_stays: bool) -> None:
    """Whoever is still there gets the answer."""
    engine = await start_engine(tpot_ms=20)
    system = await start_system(engine)
    key = {"Idempotency-Key": "shared"}
    request_id = idempotent_id("", "shared")

    async def ask() -> bytes:
        async with post_chat(system, key, max_tokens=30) as response:
            return await response.read()

    first = asyncio.create_task(ask())
    await system.until(request_id, RequestState.RUNNING)
    second = asyncio.create_task(ask())
    await wait_until(lambda: _open_requests(system, 2), what="both are there")
    leaves, stays = (second, first) if first_stays else (first, second)
    leaves.cancel()
    async with asyncio.timeout(10):
        assert expected_text("hello", 30).encode() in await stays
    assert (await engine.state())["total_requests"] == 1


async def test_a_retry_that_waits_for_less_ends_nobody_elses_answer(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    engine = await start_engine(tpot_ms=60)
    system = await start_system(engine, gateways=2)
    key = {"Idempotency-Key": "shared"}
    asking = asyncio.create_task(_told(system, key | {"X-Request-Timeout-Ms": "60000"}, 0))
    await system.until(idempotent_id("", "shared"), RequestState.RUNNING)
    status, text = await _told(system, key | {"X-Request-Timeout-Ms": "200"}, 1)
    assert status == 504
    assert "the request itself goes on. X-Request-Timeout-Ms is 200." in text
    status, text = await asking
    assert status == 200
    assert expected_text("hello", 60) in text


async def test_a_retry_is_told_the_limit_of_the_request(start_engine: StartEngine, start_system: StartSystem) -> None:
    system = await start_system(await start_engine(**ENDLESS), gateways=2)
    key = {"Idempotency-Key": "shared"}
    asking = asyncio.create_task(_told(system, key | {"X-Request-Timeout-Ms": "1500"}, 0))
    await system.until(idempotent_id("", "shared"), RequestState.RUNNING)
    status, text = await _told(system, key | {"X-Request-Timeout-Ms": "60000"}, 1)
    assert status == 504
    assert "The limit was 1500 ms." in text
    status, text = await asking
    assert status == 504
    assert "X-Request-Timeout-Ms is 1500." in text


async def _told(system: InProcessSystem, headers: dict[str, str], gateway: int) -> tuple[int, str]:
    async with asyncio.timeout(20), post_chat(system, headers, gateway, max_tokens=60) as response:
        return response.status, await response.text()


async def _open_requests(system: InProcessSystem, count: int) -> bool:
    """Of all gateways: they share the process, and so its counters."""
    async with system.session.get(f"{system.url}/metrics") as response:
        return f"sagellm_control_gateway_open_requests {count:.1f}" in await response.text()


async def test_a_retry_gets_its_answer_however_long_the_queue_is(
    engine: SimulatedEngine, system: InProcessSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = {"Idempotency-Key": "k", "X-SLO-Deadline-Ms": "60000", "X-SLO-Reject": "true"}
    status, text = await _told(system, sent, 0)
    assert status == 200
    monkeypatch.setattr(Pools, "is_too_late", lambda *_: True)
    assert await _told(system, sent, 0) == (200, text)
    assert (await _told(system, sent | {"Idempotency-Key": "new"}, 0))[0] == 503


@pytest.mark.parametrize("header", ["Idempotency-Key", "X-Request-ID"])
async def test_a_retry_of_what_was_turned_away_is_another_try(
    header: str, start_engine: StartEngine, start_system: StartSystem
) -> None:
    """It was told to come again."""
    system = await start_system(await start_engine(slots=1, **ENDLESS), gateway_max_waiting=1)
    key = {header: "turned-away", "X-Request-Priority": "LOW"}
    request_id = idempotent_id("", "turned-away") if header == "Idempotency-Key" else "turned-away"
    async with AsyncExitStack() as stack:
        await occupy(stack, system, "runs")
        low = asyncio.create_task(_told(system, key, 0))
        await system.until(request_id, RequestState.WAITING)
        await occupy(stack, system, "urgent", X_Request_Priority="HIGH")
        status, text = await low
        assert (status, "displaced" in text) == (429, True)
    await _runs(system, key, request_id)


async def test_a_retry_of_what_timed_out_while_it_waited_is_another_try(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    system = await start_system(await start_engine(slots=1, **ENDLESS))
    key = {"Idempotency-Key": "late"}
    async with AsyncExitStack() as stack:
        await occupy(stack, system, "runs")
        assert (await _told(system, key | {"X-Request-Timeout-Ms": "100"}, 0))[0] == 408
    await _runs(system, key, idempotent_id("", "late"))


async def test_a_retry_is_told_the_limit_of_a_request_that_has_ended(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    system = await start_system(await start_engine(**ENDLESS))
    key = {"Idempotency-Key": "late"}
    assert (await _told(system, key | {"X-Request-Timeout-Ms": "300"}, 0))[0] == 504
    status, text = await _told(system, key, 0)
    assert (status, "The limit was 300 ms." in text) == (504, True), text


async def _runs(system: InProcessSystem, headers: dict[str, str], request_id: str) -> None:
    asking = asyncio.create_task(_told(system, headers, 0))
    await system.until(request_id, RequestState.RUNNING)
    asking.cancel()
