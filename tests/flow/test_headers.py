"""What a client says in headers, and what it is told in them."""

from __future__ import annotations

import pytest

from sagellm_control.wire.trace_context import TraceContext

from .asking import error_of, post_chat
from .conftest import SimulatedEngine, StartEngine, StartSystem
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


@pytest.mark.parametrize(
    ("sent", "told"), [("CRITICAL", "CRITICAL"), ("low", "LOW"), ("4", "BACKGROUND"), (None, "NORMAL")]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_priority_is_recorded_and_told(
    system: InProcessSystem, sent: str | None, told: str, stream: bool
) -> None:
    headers = {"X-Request-ID": "p", **({"X-Request-Priority": sent} if sent else {})}
    async with post_chat(system, headers, stream=stream) as response:
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
    async with post_chat(system, {header: value}) as response:
        assert response.status == 400
        error = await error_of(response)
    assert error["param"] == header
    assert header in error["message"]
    assert allowed in error["message"]
    assert (await engine.state())["total_requests"] == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_ids_are_returned(system: InProcessSystem, stream: bool) -> None:
    sent = {"X-Request-ID": "my.id_1", "X-Trace-ID": "my-trace", "traceparent": TRACEPARENT}
    async with post_chat(system, sent, stream=stream) as response:
        assert {name: response.headers[name] for name in sent} == sent
        await response.read()


async def test_ids_are_made_up_where_none_is_given(system: InProcessSystem) -> None:
    async with post_chat(system, {}) as first, post_chat(system, {}) as second:
        ids = {first.headers["X-Request-ID"], second.headers["X-Request-ID"]}
        assert len(ids) == 2
        assert first.headers["X-Trace-ID"] == first.headers["X-Request-ID"]


async def test_the_trace_id_is_taken_from_traceparent(system: InProcessSystem) -> None:
    async with post_chat(system, {"traceparent": TRACEPARENT, "X-Request-ID": "t"}) as response:
        assert response.headers["X-Trace-ID"] == TRACE_ID
    view = await system.find("t")
    assert view is not None
    assert TraceContext.decode(view.fields["trace"]) == TraceContext(TRACE_ID, TRACEPARENT)


async def test_a_malformed_traceparent_is_ignored(system: InProcessSystem) -> None:
    async with post_chat(system, {"traceparent": "00-zz-01"}) as response:
        assert response.status == 200
        assert "traceparent" not in response.headers


async def test_a_refusal_tells_the_request_id_too(system: InProcessSystem) -> None:
    async with post_chat(system, {"X-Request-ID": "refused-1"}, model="nobody") as response:
        assert response.status == 404
        assert response.headers["X-Request-ID"] == "refused-1"


async def test_a_request_id_that_is_in_use(engine: SimulatedEngine, two_gateways: InProcessSystem) -> None:
    async with post_chat(two_gateways, {"X-Request-ID": "once"}) as response:
        assert response.status == 200
    async with post_chat(two_gateways, {"X-Request-ID": "once"}, gateway=1) as response:
        assert response.status == 409
        error = await error_of(response)
    assert (error["param"], error["code"]) == ("X-Request-ID", "request_id_exists")
    assert (await engine.state())["total_requests"] == 1
