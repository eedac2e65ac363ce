"""What an inbox did not get is read from the output log: a client notices a pause and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from sagellm_control.client import QueueClient, inbox
from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.store.settings import RedisSettings
from sagellm_control.wire.event import Event

from ..flow.answer_events import text_of
from ..flow.asking import MODEL, chat_bytes, expected_text
from ..flow.conftest import StartEngine
from ..flow.in_process import InProcessSystem, in_process_system
from ..waiting import wait_until
from .tcp_proxy import TcpProxy, tcp_proxy

TOKENS = 80


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "ECHO_EVERY_S", 0.1)
    monkeypatch.setattr(inbox, "SILENCE_S", 0.5)


@pytest.fixture
async def system(start_engine: StartEngine, redis_settings: RedisSettings) -> AsyncGenerator[InProcessSystem, None]:
    """Behind no proxy; only the client under test is."""
    engine = await start_engine(tpot_ms=10)
    async with in_process_system(redis_settings, [engine.url], gateways=0) as system:
        yield system


@pytest.fixture
async def queue(system: InProcessSystem, proxied: RedisSettings) -> AsyncGenerator[QueueClient, None]:
    async with QueueClient.connect(proxied) as queue:
        yield queue


async def listen(queue: QueueClient, request_id: str, heard: list[Event]) -> None:
    async with asyncio.timeout(15):
        async for event in queue.stream(request_id):
            heard.append(event)  # noqa: PERF401 - others look at it meanwhile


@pytest.mark.parametrize("fault", ["cut", "lost without a word", "held"])
async def test_the_network(queue: QueueClient, proxy: TcpProxy, fault: str) -> None:
    submission = await queue.submit(MODEL, chat_bytes(max_tokens=TOKENS, stream=True), stream=True)
    heard: list[Event] = []
    listening = asyncio.create_task(listen(queue, submission.request_id, heard))
    await wait_until(lambda: len(heard) > 5)
    match fault:
        case "cut":
            proxy.cut()
        case "lost without a word":
            # As by a firewall that forgot the connections: those that are there are dead, new ones work.
            proxy.lose()
            proxy.find()
        case _:
            proxy.hold()
            await wait_until(lambda: not queue.inbox.subscribed.is_set(), what="nothing was heard for too long")
            proxy.release()
    await listening
    assert text_of(heard) == expected_text("hello", TOKENS)


async def test_an_idle_inbox_notices_that_its_connection_is_dead(queue: QueueClient, proxy: TcpProxy) -> None:
    """Nothing is published, so only the inbox itself can find out. The next answer must not wait for it."""
    proxy.lose()
    proxy.find()
    await wait_until(lambda: not queue.inbox.subscribed.is_set(), what="it has noticed")
    await wait_until(queue.inbox.subscribed.is_set, what="it is subscribed again")
    submission = await queue.submit(MODEL, chat_bytes(max_tokens=3, stream=True), stream=True)
    heard: list[Event] = []
    await listen(queue, submission.request_id, heard)
    assert text_of(heard) == expected_text("hello", 3)


async def test_a_slow_reader_that_redis_cuts_off(
    start_engine: StartEngine, server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``client-output-buffer-limit pubsub``: who does not read for long is disconnected, and misses what was there."""
    monkeypatch.setattr(inbox, "SILENCE_S", 20.0)
    engine = await start_engine()
    async with (
        in_process_system(RedisSettings(url=server.url), [engine.url], gateways=0) as system,
        tcp_proxy(server.port) as proxy,
        QueueClient.connect(RedisSettings(url=f"redis://127.0.0.1:{proxy.port}/0")) as queue,
    ):
        db, channel = system.store.commands, queue.inbox.channel
        await db.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
        submission = await queue.submit(MODEL, chat_bytes(max_tokens=TOKENS, stream=True), stream=True)
        heard: list[Event] = []
        listening = asyncio.create_task(listen(queue, submission.request_id, heard))
        proxy.hold()
        of_others = b"x" * 60_000
        frame = b"another-request 1-1 chunk %d\n%s\n" % (len(of_others), of_others)

        async def cut_off() -> bool:
            return await db.publish(channel, frame) == 0

        await wait_until(cut_off, what="the server has cut the slow reader off")
        proxy.release()
        await listening
        assert text_of(heard) == expected_text("hello", TOKENS)


async def test_every_subscriber_is_killed_again_and_again(queue: QueueClient, system: InProcessSystem) -> None:
    submission = await queue.submit(MODEL, chat_bytes(max_tokens=TOKENS, stream=True), stream=True)
    heard: list[Event] = []
    listening = asyncio.create_task(listen(queue, submission.request_id, heard))
    killed = 0
    while not listening.done():
        count = len(heard) + 5
        await wait_until(lambda count=count: len(heard) >= count or listening.done())
        killed += await system.store.commands.client_kill_filter(_type="pubsub")
    await listening
    assert killed > 3
    assert text_of(heard) == expected_text("hello", TOKENS)
