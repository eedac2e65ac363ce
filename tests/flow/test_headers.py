"""What a client says in headers, and what it is told in them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from sagellm_control.gateway.request_headers import idempotent_id

from ..waiting import wait_until
from .asking import CHAT_PATH, chat, error_of, expected_text
from .conftest import SimulatedEngine, StartEcho, StartEngine, StartSystem
from .in_process import InProcessSystem

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
NAMES = "CRITICAL, HIGH, NORMAL, LOW, BACKGROUND"


@pytest.fixture
async def engine(start_engine: StartEngine) -> SimulatedEngine:
    return await start_engine()


@pytest.fixture
async def system(engine: SimulatedEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(engine)


@pytest.fixture
async def two_gateways(engine: SimulatedEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(engine, gateways=2)


def _ask(system: InProcessSystem, headers: dict[str, str], gateway: int = 0, **fields: Any) -> Any:
    url = system.gateways[gateway] + CHAT_PATH
    return system.session.post(url, json=chat(**{"max_tokens": 4, **fields}), headers=headers)


@pytest.mark.parametrize(
    ("sent", "told"), [("CRITICAL", "CRITICAL"), ("low", "LOW"), ("4", "BACKGROUND"), (None, "NORMAL")]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_priority_is_recorded_and_told(
    system: InProcessSystem, sent: str | None, told: str, stream: bool
) -> None:
    headers = {"X-Request-ID": "p", **({"X-Request-Priority": sent} if sent else {})}
    async with _ask(system, headers, stream=stream) as response:
        assert response.status == 200
        assert response.headers["X-Request-Priority"] == told
        await response.read()
    view = await system.find("p")
    assert view is not None
    assert view.priority == told.lower()


@pytest.mark.parametrize(
    ("header", "value", "allowed"),
    [
        ("X-Request-Priority", "URGENT", NAMES),
        ("X-Request-Priority", "-1", NAMES),
        ("X-Request-Priority", "5", NAMES),
        ("X-Request-Priority", "", NAMES),
        ("X-Request-Timeout-Ms", "0", "1 to 86400000"),
        ("X-Request-Timeout-Ms", "-5", "1 to 86400000"),
        ("X-Request-Timeout-Ms", "1.5", "1 to 86400000"),
        ("X-Request-Timeout-Ms", "soon", "1 to 86400000"),
        ("X-Request-Timeout-Ms", "86400001", "1 to 86400000"),
        ("X-SLO-Deadline-Ms", "0", "1 to 86400000"),
        ("X-SLO-Deadline-Ms", "9" * 400, "1 to 86400000"),
        ("X-SLO-Deadline-Ms", "²", "1 to 86400000"),
        ("X-Request-ID", "with space", "letters, digits"),
        ("X-Request-ID", "a:b", "letters, digits"),
        ("X-Request-ID", "x" * 65, "1 to 64"),
        ("X-Trace-ID", "x" * 65, "1 to 64"),
        ("X-Trace-ID", "two words", "without spaces"),
        ("Idempotency-Key", "k" * 256, "1 to 255"),
    ],
)
async def test_a_header_that_cannot_be_used_is_named(
    engine: SimulatedEngine, system: InProcessSystem, header: str, value: str, allowed: str
) -> None:
    async with _ask(system, {header: value}) as response:
        assert response.status == 400
        error = await error_of(response)
    assert error["param"] == header
    assert header in error["message"]
    assert allowed in error["message"]
    assert (await engine.state())["total_requests"] == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_ids_are_returned(system: InProcessSystem, stream: bool) -> None:
    sent = {"X-Request-ID": "my.id_1", "X-Trace-ID": "my-trace", "traceparent": TRACEPARENT}
    async with _ask(system, sent, stream=stream) as response:
        assert {name: response.headers[name] for name in sent} == sent
        await response.read()


async def test_ids_are_made_up_where_none_is_given(system: InProcessSystem) -> None:
    async with _ask(system, {}) as first, _ask(system, {}) as second:
        ids = {first.headers["X-Request-ID"], second.headers["X-Request-ID"]}
        assert len(ids) == 2
        assert first.headers["X-Trace-ID"] == first.headers["X-Request-ID"]


async def test_the_trace_id_is_taken_from_traceparent(system: InProcessSystem) -> None:
    async with _ask(system, {"traceparent": TRACEPARENT, "X-Request-ID": "t"}) as response:
        assert response.headers["X-Trace-ID"] == TRACE_ID
    view = await system.find("t")
    assert view is not None
    assert view.fields["trace_id"] == TRACE_ID


async def test_a_malformed_traceparent_is_ignored(system: InProcessSystem) -> None:
    async with _ask(system, {"traceparent": "00-zz-01"}) as response:
        assert response.status == 200
        assert "traceparent" not in response.headers


async def test_a_refusal_tells_the_request_id_too(system: InProcessSystem) -> None:
    async with _ask(system, {"X-Request-ID": "refused-1"}, model="nobody") as response:
        assert response.status == 404
        assert response.headers["X-Request-ID"] == "refused-1"


async def test_a_request_id_that_is_in_use(engine: SimulatedEngine, two_gateways: InProcessSystem) -> None:
    async with _ask(two_gateways, {"X-Request-ID": "once"}) as response:
        assert response.status == 200
    async with _ask(two_gateways, {"X-Request-ID": "once"}, gateway=1) as response:
        assert response.status == 409
        error = await error_of(response)
    assert (error["param"], error["code"]) == ("X-Request-ID", "request_id_exists")
    assert (await engine.state())["total_requests"] == 1


async def test_an_idempotency_key_gives_the_same_answer_again(
    engine: SimulatedEngine, two_gateways: InProcessSystem
) -> None:
    answers: list[tuple[str, bytes]] = []
    for gateway in (0, 0, 1):
        async with _ask(two_gateways, {"Idempotency-Key": "key one"}, gateway) as response:
            assert response.status == 200
            answers.append((response.headers["X-Request-ID"], await response.read()))
    assert answers[0] == answers[1] == answers[2]
    assert (await engine.state())["total_requests"] == 1


async def test_two_at_once_with_one_key_share_one_stream(start_engine: StartEngine, start_system: StartSystem) -> None:
    engine = await start_engine(tpot_ms=3)
    system = await start_system(engine, gateways=2)
    key = {"Idempotency-Key": "shared"}

    async def ask(gateway: int) -> bytes:
        async with asyncio.timeout(5), _ask(system, key, gateway, stream=True, max_tokens=30) as response:
            assert response.status == 200
            return await response.read()

    answers = await asyncio.gather(*(ask(gateway) for gateway in (0, 1, 0, 1)))
    assert len(set(answers)) == 1
    assert answers[0].endswith(b"data: [DONE]\n\n")
    assert expected_text("hello", 30).split()[-1].encode() in answers[0]
    assert (await engine.state())["total_requests"] == 1


async def test_a_key_that_was_used_with_another_body(engine: SimulatedEngine, two_gateways: InProcessSystem) -> None:
    async with _ask(two_gateways, {"Idempotency-Key": "k"}) as response:
        assert response.status == 200
    async with _ask(two_gateways, {"Idempotency-Key": "k"}, gateway=1, max_tokens=5) as response:
        assert response.status == 422
        error = await error_of(response)
    assert (error["param"], error["code"]) == ("Idempotency-Key", "idempotency_key_reused")
    assert (await engine.state())["total_requests"] == 1


async def test_each_user_has_idempotency_keys_of_its_own(engine: SimulatedEngine, system: InProcessSystem) -> None:
    for user in ("anna", "ben"):
        async with _ask(system, {"Idempotency-Key": "k"}, user=user) as response:
            assert response.status == 200
    assert (await engine.state())["total_requests"] == 2


async def test_a_retry_after_the_connection_broke_is_answered(start_echo: StartEcho, start_system: StartSystem) -> None:
    """The key is for a client whose connection broke. That cancelled its request; asked for again, it runs again."""
    echo = await start_echo()
    system = await start_system(echo)
    key = {"Idempotency-Key": "broken line"}
    body = {"model": "echo-1", "messages": [{"role": "user", "content": "hi"}]}
    never = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    echo.respond(silent)
    first = asyncio.create_task(system.session.post(system.url + CHAT_PATH, json=body, headers=key))
    await wait_until(lambda: echo.reached, what="the engine has the request")
    first.cancel()
    await asyncio.wait({first})
    assert await system.until_outcome(idempotent_id("", "broken line")) == "cancelled"
    echo.answer(b'{"answer":42}')
    async with asyncio.timeout(5), system.session.post(system.url + CHAT_PATH, json=body, headers=key) as response:
        assert (response.status, await response.read()) == (200, b'{"answer":42}')
