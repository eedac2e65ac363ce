"""append: output of current attempts is logged and published."""

from __future__ import annotations

from redis.asyncio.client import PubSub

from sagellm_control.store.steps.append import Output, append
from sagellm_control.store.steps.attach import attach
from sagellm_control.wire.event import CHUNK, Event, read_frames

from ..pool_driver import PoolDriver


async def messages(listener: PubSub, count: int) -> list[tuple[str, list[Event]]]:
    """The next messages: channel and events. Asks for one more, to see that there are no others."""
    found: list[tuple[str, list[Event]]] = []
    while len(found) <= count:
        message = await listener.get_message(ignore_subscribe_messages=True, timeout=5 if len(found) < count else 0.02)
        if message is None:
            if len(found) == count:
                return found
            continue
        found.append((message["channel"].decode(), read_frames(message["data"])))
    raise AssertionError(f"more than {count} messages: {found}")


async def test_logged_and_published(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    async with pool.store.subscriber().pubsub() as listener:
        await listener.subscribe("inbox-of-a")
        assert await pool.append("a", 1, b"data: one\n\n")
        assert await pool.append("a", 2, b"data: \x00\xff two\n\n")
        expected = [
            Event("a", 1, 1, CHUNK, b"data: one\n\n"),
            Event("a", 1, 2, CHUNK, b"data: \x00\xff two\n\n"),
        ]
        assert await messages(listener, 2) == [("inbox-of-a", [event]) for event in expected]
    assert await pool.events("a") == expected


async def test_also_before_the_claim_has_arrived(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.assigned("a")
    assert await pool.append("a")


async def test_the_same_piece_sent_again_is_there_once(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    async with pool.store.subscriber().pubsub() as listener:
        await listener.subscribe("inbox-of-a")
        for _ in range(2):
            assert await pool.append("a", 1, b"one")
        assert await pool.append("a", 2, b"two")
        assert await pool.append("a", 1, b"one")
        assert [e.sequence for _, events in await messages(listener, 2) for e in events] == [1, 2]
    assert [event.payload for event in await pool.events("a")] == [b"one", b"two"]


async def test_a_batch_is_one_message_an_inbox(pool: PoolDriver) -> None:
    await pool.engine(slots=3)
    await pool.running("a", "b", inbox="shared")
    await pool.running("c", inbox="own")
    async with pool.store.subscriber().pubsub() as listener:
        await listener.subscribe("shared", "own")
        outputs = [Output(r, 1, 1, r.encode()) for r in ("a", "b", "c", "never-heard-of")]
        results = await append(pool.store, pool.name, "e1", "w-e1", outputs)
        assert results == [True, True, True, False]
        assert sorted(await messages(listener, 2)) == [
            ("own", [Event("c", 1, 1, CHUNK, b"c")]),
            ("shared", [Event("a", 1, 1, CHUNK, b"a"), Event("b", 1, 1, CHUNK, b"b")]),
        ]


async def test_several_pieces_of_one_request_in_a_batch(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    outputs = [Output("a", 1, n, str(n).encode()) for n in (1, 2, 3)]
    assert await append(pool.store, pool.name, "e1", "w-e1", outputs) == [True] * 3
    assert [event.payload for event in await pool.events("a")] == [b"1", b"2", b"3"]


async def test_every_attached_inbox_gets_it(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await attach(pool.store, pool.name, "a", "second")
    async with pool.store.subscriber().pubsub() as listener:
        await listener.subscribe("inbox-of-a", "second")
        await pool.append("a", 1, b"x")
        assert sorted(channel for channel, _ in await messages(listener, 2)) == ["inbox-of-a", "second"]


async def test_what_lost_its_attempt_is_not_published(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    async with pool.store.subscriber().pubsub() as listener:
        await listener.subscribe("inbox-of-a")
        assert not await pool.append("a", 1, attempt=2)
        assert not await pool.append("a", 1, worker="w-other")
        assert await messages(listener, 0) == []
