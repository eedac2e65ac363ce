"""The parts that programs use without a manager: policies, routers, the client, the lifecycle."""

from __future__ import annotations

import pickle
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from sagellm_control import (
    AdaptivePolicy,
    ClientConfig,
    EngineClient,
    EngineInfo,
    EngineLifecycleManager,
    EngineRequestError,
    EngineState,
    EngineTimeoutError,
    EngineUnavailableError,
    FIFOPolicy,
    LoadBalancer,
    PriorityPolicy,
    RequestContext,
    RequestPriority,
    RequestStatus,
    RetryPolicy,
    SchedulingPolicy,
    SLOAwarePolicy,
)
from sagellm_control.policies import KVAwareSchedulingPolicy
from sagellm_control.types import RequestMetadata

from ..flow.echo_engine import EchoEngine
from ..waiting import wait_until
from .conftest import StartEcho


def engines(*loads: int) -> list[EngineInfo]:
    return [
        EngineInfo(f"e{number}", "m", "h", 1, EngineState.READY, active_requests=load)
        for number, load in enumerate(loads)
    ]


def waiting(name: str, **fields: Any) -> RequestMetadata:
    age_s = fields.pop("age_s", 0.0)
    return RequestMetadata(name, arrival_time=datetime.now(UTC) - timedelta(seconds=age_s), **fields)


def order(policy: SchedulingPolicy, *requests: RequestMetadata) -> list[str]:
    return [request.request_id for request in policy.reorder_queue(list(requests))]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (FIFOPolicy(), "FIFO: routed to e1"),
        (PriorityPolicy(), "Priority(NORMAL): routed to e1"),
        (SLOAwarePolicy(), "SLO-aware: urgency=0.0002, routed to e1"),
        (AdaptivePolicy(), "Adaptive(fifo): FIFO: routed to e1"),
        (
            KVAwareSchedulingPolicy(),
            "KV-aware: selected engine e1 (KV util: 12.50%, available: 3584 tokens)",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, SchedulingPolicy) else "",
)
def test_a_policy_chooses_the_least_loaded_engine(policy: SchedulingPolicy, reason: str) -> None:
    down = EngineInfo("down", "m", "h", 1, EngineState.ERROR)
    decision = policy.schedule(waiting("r"), [down, *engines(3, 1, 1)], [])
    assert (decision.engine_id, decision.reason) == ("e1", reason)
    assert decision.is_scheduled
    nothing = policy.schedule(waiting("r"), [down], [])
    assert (nothing.status, nothing.reason) == (RequestStatus.FAILED, "No healthy engines available")


def test_the_orders_of_the_policies() -> None:
    late = waiting("late", priority=RequestPriority.LOW)
    old = waiting("old", age_s=3)
    urgent = waiting("urgent", priority=RequestPriority.CRITICAL)
    assert order(FIFOPolicy(), late, old, urgent) == ["late", "old", "urgent"]
    assert order(PriorityPolicy(), late, old, urgent) == ["urgent", "old", "late"]
    near = waiting("near", slo_deadline_ms=100)
    expired = waiting("expired", age_s=9)
    assert order(SLOAwarePolicy(), late, near, expired) == ["expired", "near", "late"]
    small, big = waiting("small", max_tokens=5), waiting("big", max_tokens=900)
    assert order(KVAwareSchedulingPolicy(), big, small) == ["small", "big"]


def test_positions_in_the_queue() -> None:
    pending = [waiting(f"p{number}", priority=RequestPriority(number), age_s=1) for number in range(4)]
    assert FIFOPolicy().schedule(waiting("r"), engines(0), pending).queue_position == 4
    assert PriorityPolicy().schedule(waiting("r"), engines(0), pending).queue_position == 2
    assert SLOAwarePolicy().schedule(waiting("r"), engines(0), pending).queue_position == 4
    now = datetime.now(UTC)
    alike = [RequestMetadata(f"p{number}", arrival_time=now) for number in range(10)]
    last = RequestMetadata("r", arrival_time=now)
    assert SLOAwarePolicy().schedule(last, engines(0), alike).queue_position == 10
    assert SLOAwarePolicy().schedule(waiting("r", slo_deadline_ms=9), engines(0), alike).queue_position == 0


def test_the_queue_of_a_policy() -> None:
    policy = PriorityPolicy()
    for request in (waiting("a"), waiting("b", priority=RequestPriority.HIGH)):
        policy.add_request(request)
    assert policy.queue_length() == 2
    first = policy.peek_next()
    assert first is not None
    assert first.request_id == "b"
    assert policy.next_request() is first
    assert policy.queue_length() == 1


def test_the_adaptive_policy_changes_with_the_moment() -> None:
    policy = AdaptivePolicy()
    assert policy.current_policy_name == "fifo"
    policy.schedule(waiting("r"), engines(8, 8), [])
    assert policy.current_policy_name == "priority"
    policy.schedule(waiting("r", slo_deadline_ms=50), engines(0), [])
    assert policy.current_policy_name == "slo_aware"


def test_kv_room_is_taken_and_given_back() -> None:
    policy = KVAwareSchedulingPolicy(max_kv_tokens_per_engine=100)
    request = waiting("r", prompt_tokens=40, max_tokens=40)
    assert policy.schedule(request, engines(0), []).is_scheduled
    full = policy.schedule(request, engines(0), [])
    assert (full.status, full.estimated_wait_ms) == (RequestStatus.PENDING, 5000.0)
    assert full.reason == "No engine with sufficient KV budget (80 tokens needed)"
    assert policy.get_kv_utilization_metrics() == {"e0": 0.8}
    policy.release_request("r", "e0", 500)
    assert policy.get_kv_utilization_metrics() == {"e0": 0.0}


def test_the_load_balancer() -> None:
    some = engines(2, 0, 1)
    least, turns = LoadBalancer(), LoadBalancer("round_robin")
    assert [getattr(least.route(waiting("r"), some), "engine_id", None) for _ in range(2)] == ["e1", "e1"]
    assert [getattr(turns.route(waiting("r"), some), "engine_id", None) for _ in range(4)] == ["e0", "e1", "e2", "e0"]
    assert least.route(waiting("r"), []) is None
    with pytest.raises(ValueError, match=r"^Unknown strategy: x. Available: \['round_robin', 'least_loaded'\]$"):
        LoadBalancer("x")


@pytest.fixture
async def client() -> AsyncGenerator[EngineClient, None]:
    client = EngineClient(ClientConfig(max_retries=1, base_retry_delay_s=0.01))
    yield client
    await client.close()


def info_of(engine: EchoEngine) -> EngineInfo:
    where = urlsplit(engine.url)
    assert where.hostname is not None
    assert where.port is not None
    return EngineInfo("e", "m", where.hostname, where.port)


async def test_the_client_posts_what_it_is_given(client: EngineClient, start_echo: StartEcho) -> None:
    engine = await start_echo()
    engine.answer(b'{"output_text": "Hi"}')
    context = RequestContext("r-1", "t-1")
    assert await client.execute(info_of(engine), {"prompt": "Hello"}, context) == {"output_text": "Hi"}
    reached = engine.reached[-1]
    assert (reached.path, orjson.loads(reached.body)) == ("/v1/completions", {"prompt": "Hello"})
    assert (reached.headers["X-Request-ID"], reached.headers["X-Trace-ID"]) == ("r-1", "t-1")
    assert (context.attempts, context.engines_tried) == (1, ["e"])
    await client.close()
    assert await client.health_check(info_of(engine)), "it can be used again"


@pytest.mark.parametrize(("status", "attempts"), [(400, 1), (408, 2), (429, 2), (503, 2)])
async def test_the_client_tries_again(client: EngineClient, start_echo: StartEcho, status: int, attempts: int) -> None:
    engine = await start_echo()
    engine.answer(b"why", status=status)
    context = RequestContext("r-1", "t-1")
    kind = "Engine" if status >= 500 else "Request"
    with pytest.raises(EngineRequestError, match=f"^{kind} error: {status} - why$") as raised:
        await client.execute(info_of(engine), {}, context)
    assert (raised.value.status_code, raised.value.retryable) == (status, attempts == 2)
    assert context.attempts == attempts
    assert context.last_error is raised.value


async def test_the_client_reads_events_line_by_line(client: EngineClient, start_echo: StartEcho) -> None:
    engine = await start_echo()
    whole = (
        ': hello\n\nevent: x\ndata:{"no": "space"}\ndata: {"content":"a\u2028b\x85c"}\r\n\r\n'
        'data: {oops\n\ndata: [1]\ndata: {"content":"d"}\n\ndata: {"last": 1}'
    ).encode()
    events = [{"content": "a\u2028b\x85c"}, [1], {"content": "d"}, {"last": 1}]
    for pieces in ([whole], [whole[at : at + 1] for at in range(len(whole))], [whole + b"\n\ndata: [DONE]\n\ndata: 7"]):
        engine.stream(pieces)
        assert [event async for event in client.stream(info_of(engine), {})] == events


def test_errors_travel_between_processes() -> None:
    error = EngineRequestError("Request error: 429 - busy", 429)
    error.retry_after_s = 3.0
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.__dict__) == (str(error), error.__dict__)
    assert (copy.status_code, copy.retryable) == (429, True)
    assert pickle.loads(pickle.dumps(EngineTimeoutError("slow"))).retryable


async def test_an_engine_that_is_not_there(client: EngineClient) -> None:
    nobody = EngineInfo("e", "m", "127.0.0.1", 1)
    with pytest.raises(EngineUnavailableError, match=r"^Connection failed: "):
        await client.execute(nobody, {})
    assert await client.health_check(nobody) is False


def test_the_pauses_of_the_client() -> None:
    def delays(policy: RetryPolicy) -> list[float]:
        client = EngineClient(ClientConfig(retry_policy=policy, max_retry_delay_s=3))
        delay: Any = client._calculate_retry_delay  # pyright: ignore[reportPrivateUsage] - programs use it
        return [delay(attempt) for attempt in range(4)]

    assert delays(RetryPolicy.EXPONENTIAL_BACKOFF) == [0.5, 1.0, 2.0, 3.0]
    assert delays(RetryPolicy.LINEAR_BACKOFF) == [0.5, 1.0, 1.5, 2.0]
    assert delays(RetryPolicy.NONE) == [0.0] * 4


async def test_the_lifecycle(start_echo: StartEcho) -> None:
    changes: list[tuple[str, EngineState, EngineState]] = []

    def changed(engine_id: str, before: EngineState, now: EngineState) -> None:
        changes.append((engine_id, before, now))

    lifecycle = EngineLifecycleManager(0.02, on_state_change=changed)
    engine = await start_echo()
    info = info_of(engine)
    lifecycle.register(info)
    await lifecycle.start()
    try:
        assert lifecycle.is_running
        await wait_until(lambda: info.state is EngineState.READY)
        port, info.port = info.port, 1
        await wait_until(lambda: info.state is EngineState.ERROR)
        assert info.consecutive_failures >= 3
        info.port = port
        await wait_until(lambda: info.state is EngineState.READY)
        info.active_requests = 1
        assert await lifecycle.drain_engine("e", timeout_s=0.1) is False
        assert info.state is EngineState.DRAINING
        info.active_requests = 0
        assert await lifecycle.drain_engine("e") is True
        assert await lifecycle.drain_engine("nobody") is False
    finally:
        await lifecycle.stop()
    assert changes[0] == ("e", EngineState.STARTING, EngineState.READY)
    assert changes[-1] == ("e", EngineState.DRAINING, EngineState.STOPPED)
