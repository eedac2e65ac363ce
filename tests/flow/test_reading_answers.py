"""Reading answers: by several readers, from a position on, after the end, and though messages get lost."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_control.client import QueueClient, QueueUnavailable, UnknownRequest
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.accept import AcceptLimits
from sagellm_control.wire.event import CHUNK, Event

from ..waiting import wait_until
from .answer_events import all_events, text_of
from .asking import MODEL, chat, chat_bytes, expected_text
from .conftest import StartEngine, StartSystem
from .in_process import InProcessSystem


@pytest.fixture
async def system(start_engine: StartEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(await start_engine(), gateways=0)


async def test_resume_behind_a_position(
    start_engine: StartEngine, start_system: StartSystem, redis_settings: RedisSettings
) -> None:
    engine = await start_engine(tpot_ms=3)
    await start_system(engine, gateways=0)
    async with QueueClient.connect(redis_settings) as queue:
        submission = await queue.submit(MODEL, chat_bytes(max_tokens=20, stream=True), stream=True)
        events = await all_events(queue, submission.request_id)
        assert len(events) > 4
        for number, event in enumerate(events[:-1]):
            again = [later async for later in queue.stream(submission.request_id, after=event.position)]
            assert again == events[number + 1 :]


async def test_resume_behind_the_end(queue: QueueClient) -> None:
    """A client that missed only that it had everything asks once more: there is nothing, and that is told at once."""
    submission = await queue.submit(MODEL, chat_bytes(max_tokens=2, stream=True), stream=True)
    *_, end = await all_events(queue, submission.request_id)
    async with asyncio.timeout(10):
        assert [event async for event in queue.stream(submission.request_id, after=end.position)] == []


async def test_another_client_reads_what_is_under_way(
    start_engine: StartEngine, start_system: StartSystem, redis_settings: RedisSettings
) -> None:
    engine = await start_engine(tpot_ms=5)
    await start_system(engine, gateways=0)
    async with QueueClient.connect(redis_settings) as one, QueueClient.connect(redis_settings) as other:
        submission = await one.submit(MODEL, chat_bytes(max_tokens=40, stream=True), stream=True)
        events: list[Event] = []
        theirs: asyncio.Task[list[Event]] | None = None
        async with asyncio.timeout(10):
            async for event in one.stream(submission.request_id):
                events.append(event)
                if len(events) == 3:
                    theirs = asyncio.create_task(all_events(other, submission.request_id))
            assert theirs is not None
            assert await theirs == events
        assert text_of(events) == expected_text("hello", 40)


async def test_who_reads_when_the_client_is_closed_is_told_so(
    start_engine: StartEngine, start_system: StartSystem, redis_settings: RedisSettings
) -> None:
    await start_system(await start_engine(tpot_ms=1000), gateways=0)
    async with QueueClient.connect(redis_settings) as queue:
        submission = await queue.submit(MODEL, chat_bytes(max_tokens=100, stream=True), stream=True)
        events = queue.stream(submission.request_id)
        assert (await anext(events)).type == CHUNK
        waits = asyncio.create_task(queue.result(submission.request_id))
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        with pytest.raises(QueueUnavailable, match="closed"):
            await anext(events)
        with pytest.raises(QueueUnavailable, match="closed"):
            await waits


async def test_a_result_can_be_read_again_and_by_another_client(
    queue: QueueClient, redis_settings: RedisSettings
) -> None:
    submission = await queue.submit(MODEL, chat(max_tokens=3))
    first = await queue.result(submission.request_id)
    assert await queue.result(submission.request_id) == first
    async with QueueClient.connect(redis_settings) as other:
        assert await other.result(submission.request_id) == first


async def test_a_lost_subscription_loses_no_token(
    start_engine: StartEngine, start_system: StartSystem, redis_settings: RedisSettings
) -> None:
    """What is published while nobody listens is read from the output log."""
    engine = await start_engine(tpot_ms=5)
    system = await start_system(engine, gateways=0)
    async with QueueClient.connect(redis_settings) as queue:
        submission = await queue.submit(MODEL, chat_bytes(max_tokens=60, stream=True), stream=True)
        events: list[Event] = []
        async with asyncio.timeout(15):
            async for event in queue.stream(submission.request_id):
                events.append(event)
                if len(events) in (1, 10, 20):
                    for server in await system.store.servers():
                        await server.client_kill_filter(_type="pubsub")
        assert text_of(events) == expected_text("hello", 60)


async def test_a_message_that_is_lost_alone_is_noticed_by_its_gap(
    start_engine: StartEngine, start_system: StartSystem, redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await start_engine(tpot_ms=5)
    await start_system(engine, gateways=0)
    async with QueueClient.connect(redis_settings) as queue:
        deliver, count = queue.inbox._deliver, 0  # pyright: ignore[reportPrivateUsage] - the way of every message

        def deliver_two_of_three(message: bytes) -> None:
            nonlocal count
            count += 1
            if count % 3:
                deliver(message)

        monkeypatch.setattr(queue.inbox, "_deliver", deliver_two_of_three)
        submission = await queue.submit(MODEL, chat_bytes(max_tokens=31, stream=True), stream=True)
        async with asyncio.timeout(15):
            events = await all_events(queue, submission.request_id)
        assert text_of(events) == expected_text("hello", 31)
        assert count > 6


async def test_two_readers_in_one_client_both_get_everything(
    start_engine: StartEngine, start_system: StartSystem, redis_settings: RedisSettings
) -> None:
    engine = await start_engine(tpot_ms=5)
    await start_system(engine, gateways=0)
    async with QueueClient.connect(redis_settings) as queue:
        submission = await queue.submit(MODEL, chat_bytes(max_tokens=20, stream=True), stream=True)
        async with asyncio.timeout(10):
            one, two = await asyncio.gather(
                all_events(queue, submission.request_id), all_events(queue, submission.request_id)
            )
        assert one == two
        assert text_of(one) == expected_text("hello", 20)


async def test_what_nobody_reads_is_not_kept_in_memory(queue: QueueClient, system: InProcessSystem) -> None:
    """A program may submit and read the result elsewhere, or never."""
    submissions = [await queue.submit(MODEL, chat(max_tokens=1)) for _ in range(20)]
    for submission in submissions:
        await system.until_outcome(submission.request_id)
    await wait_until(lambda: not queue.inbox._answers, 10, what="no answer is held")  # pyright: ignore[reportPrivateUsage]


async def test_a_result_whose_time_is_over_is_gone(
    start_engine: StartEngine, start_system: StartSystem, redis_settings: RedisSettings
) -> None:
    await start_system(await start_engine(), gateways=0)
    async with QueueClient.connect(redis_settings, AcceptLimits(keep_result_ms=50)) as queue:
        submission = await queue.submit(MODEL, chat(max_tokens=1))
        assert (await queue.result(submission.request_id)).ok
        record = queue.store.keys.pool(MODEL).record(submission.request_id)

        async def gone() -> bool:
            return not await queue.store.commands.exists(record)

        await wait_until(gone)
        with pytest.raises(UnknownRequest):
            await queue.result(submission.request_id)
