"""The client library: what another gateway would import."""

from __future__ import annotations

from typing import Any

import pytest

from sagellm_control.client import (
    NoEngineReady,
    QueueClient,
    QueueFull,
    RequestConflict,
    UnknownModel,
    UnknownRequest,
)
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.accept import AcceptLimits
from sagellm_control.store.steps.cancel import CancelResult
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import Outcome, RequestState
from sagellm_control.wire.trace_context import TraceContext

from .answer_events import all_events, text_of
from .asking import MODEL, chat, chat_bytes, expected_text
from .conftest import StartEngine, StartSystem
from .in_process import InProcessSystem


@pytest.fixture
async def system(start_engine: StartEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(await start_engine(), gateways=0)


async def test_submit_and_result(queue: QueueClient) -> None:
    submission = await queue.submit(MODEL, {"messages": chat("hi")["messages"], "max_tokens": 5})
    assert submission.pool == MODEL
    assert not submission.existed
    result = await queue.result(submission.request_id)
    assert result.ok
    assert result.json()["choices"][0]["message"]["content"] == expected_text("hi", 5)


async def test_submit_and_stream(queue: QueueClient) -> None:
    submission = await queue.submit(MODEL, chat_bytes("hi", max_tokens=50, stream=True), stream=True)
    events = await all_events(queue, submission.request_id)
    assert text_of(events) == expected_text("hi", 50)


async def test_fields_are_recorded(queue: QueueClient, system: InProcessSystem) -> None:
    submission = await queue.submit(
        MODEL,
        chat(max_tokens=1),
        request_id="mine",
        priority=RequestPriority.HIGH,
        tenant="anna",
        timeout_s=9.5,
        slo_s=0.25,
        prompt_tokens=7,
        max_tokens=1,
        trace=TraceContext("t-1"),
    )
    await queue.result(submission.request_id)
    view = await system.find("mine")
    assert view is not None
    assert (view.priority, view.tenant) == ("high", "anna")
    expected = {"timeout_ms": "9500", "slo_ms": "250", "prompt_tokens": "7", "max_tokens": "1"}
    assert {name: view.fields[name] for name in expected} == expected
    assert TraceContext.decode(view.fields["trace"]) == TraceContext("t-1")


@pytest.mark.parametrize("state", [RequestState.QUEUED, RequestState.WAITING, RequestState.RUNNING])
async def test_cancel(
    start_engine: StartEngine, start_system: StartSystem, redis_settings: RedisSettings, state: RequestState
) -> None:
    engine = await start_engine(slots=1, tpot_ms=20)
    system = await start_system(engine, gateways=0, schedulers=0 if state is RequestState.QUEUED else 1)
    async with QueueClient.connect(redis_settings) as queue:
        wanted = [await queue.submit(MODEL, chat(max_tokens=10_000), request_id=name) for name in ("first", "second")]
        submission = wanted[1 if state is RequestState.WAITING else 0]
        await system.until(submission.request_id, state)
        told = await queue.cancel(submission.request_id)
        assert told is (CancelResult.STOPPING if state is RequestState.RUNNING else CancelResult.ENDED)
        result = await queue.result(submission.request_id)
        assert result.ending.outcome is Outcome.CANCELLED
        assert await queue.cancel(submission.request_id) is CancelResult.FINISHED
        for other in wanted:
            await queue.cancel(other.request_id)
        await system.until_idle()


async def test_an_unknown_model(queue: QueueClient) -> None:
    with pytest.raises(UnknownModel) as caught:
        await queue.submit("nobody", chat())
    assert caught.value.known == [MODEL]


async def test_an_unknown_request(queue: QueueClient) -> None:
    with pytest.raises(UnknownRequest, match="never-sent"):
        await queue.result("never-sent")
    assert await queue.cancel("never-sent") is CancelResult.UNKNOWN


async def test_a_request_id_that_is_in_use(queue: QueueClient) -> None:
    await queue.result((await queue.submit(MODEL, chat(max_tokens=1), request_id="once")).request_id)
    with pytest.raises(RequestConflict, match="once"):
        await queue.submit(MODEL, chat(max_tokens=1), request_id="once")


async def test_a_request_id_that_cannot_be_one(queue: QueueClient) -> None:
    with pytest.raises(ValueError, match="request_id"):
        await queue.submit(MODEL, chat(), request_id="a b")


async def test_a_repeated_submission(queue: QueueClient, system: InProcessSystem) -> None:
    async def submit(**changes: Any) -> Any:
        fields: dict[str, Any] = {"request_id": "same", "idempotent": True, "tenant": "anna", **changes}
        return await queue.submit(MODEL, fields.pop("body", chat(max_tokens=2)), **fields)

    first = await queue.result((await submit()).request_id)
    again = await submit()
    assert again.existed
    assert await queue.result(again.request_id) == first
    for changes in ({"body": chat("other")}, {"tenant": "ben"}, {"idempotent": False}):
        with pytest.raises(RequestConflict):
            await submit(**changes)
    counters = await system.store.commands.hgetall(system.store.keys.pool(MODEL).counters)
    assert counters[b"accepted"] == b"1"


async def test_a_full_queue(
    start_engine: StartEngine, start_system: StartSystem, redis_settings: RedisSettings
) -> None:
    await start_system(await start_engine(), gateways=0, schedulers=0)
    async with QueueClient.connect(redis_settings, AcceptLimits(max_waiting=1)) as queue:
        await queue.submit(MODEL, chat())
        with pytest.raises(QueueFull) as caught:
            await queue.submit(MODEL, chat())
    assert caught.value.waiting == 1
    assert caught.value.retry_after_s >= 1


async def test_no_engine(queue: QueueClient, system: InProcessSystem) -> None:
    await system.store.commands.delete(system.store.keys.pool(MODEL).room)
    with pytest.raises(NoEngineReady, match=MODEL):
        await queue.submit(MODEL, chat())


async def test_an_engines_refusal_is_a_result(queue: QueueClient) -> None:
    submission = await queue.submit(MODEL, chat(n=1_000_000))
    result = await queue.result(submission.request_id)
    assert not result.ok
    assert (result.ending.outcome, result.ending.status) == (Outcome.REFUSED, 400)
    assert result.json()["error"]["param"] == "n"
