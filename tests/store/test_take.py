"""take: a scheduler reads what has arrived and where room came free, or waits for either."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.take import FreedEntry, ensure_groups, leave, reclaim, take, wait_and_take
from sagellm_control.wire.keys import SCHEDULER_GROUP
from sagellm_control.wire.priority import RequestPriority

from ..pool_driver import PoolDriver
from ..waiting import wait_until

URGENCY = (RequestPriority.CRITICAL, RequestPriority.NORMAL, RequestPriority.BACKGROUND)


async def one_of_each(pool: PoolDriver) -> None:
    """Three arrivals in each of three streams, the least urgent first."""
    for priority in reversed(URGENCY):
        await pool.accept(*(f"{priority.label}-{n}" for n in range(3)), priority=priority)


async def one_of_each_again(pool: PoolDriver) -> None:
    for priority in URGENCY:
        await pool.accept(f"{priority.label}-again", priority=priority)


async def pending(pool: PoolDriver) -> int:
    streams = (*pool.keys.intake, pool.keys.freed)
    return sum([(await pool.store.commands.xpending(s, SCHEDULER_GROUP))["pending"] for s in streams])


@pytest.mark.parametrize(("number", "level"), [(1, 0), (3, 0), (4, 2), (7, 4), (9, 4), (100, 4)])
async def test_the_most_urgent_first_and_no_further_than_there_are_enough(
    pool: PoolDriver, number: int, level: int
) -> None:
    await one_of_each(pool)
    expected = [f"{priority.label}-{n}" for priority in URGENCY for n in range(min(3, number))]
    taken = await pool.take(arrivals=number)
    assert [entry.fields["id"] for entry in taken.arrivals] == expected
    assert {(entry.fields["id"].split("-")[0], entry.level) for entry in taken.arrivals} == {
        (priority.label, int(priority)) for priority in URGENCY
    }
    assert await pending(pool) == len(expected)
    # Who reads on while there is more leaves alone what is less urgent than that.
    assert taken.enough_at(number) == level
    await one_of_each_again(pool)
    more = await pool.take(arrivals=number, down_to=level)
    assert {entry.level for entry in more.arrivals} == {int(p) for p in URGENCY if p <= level}


async def test_each_entry_goes_to_one_scheduler(pool: PoolDriver) -> None:
    await one_of_each(pool)
    first, second = await pool.take("s1", arrivals=2), await pool.take("s2", arrivals=2)
    # Streams number their entries on their own, so an entry id alone names nothing.
    ids = [[entry.fields["id"] for entry in taken.arrivals] for taken in (first, second)]
    assert [len(some) for some in ids] == [6, 3]
    assert not set(ids[0]) & set(ids[1])
    assert not await pool.take("s3")


async def test_announcements_come_along(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.running("a", "b")
    await pool.waiting("c")
    await pool.finish("a")
    taken = await pool.take()
    assert [(entry.engine, entry.free) for entry in taken.freed] == [("e1", 1)]
    assert taken.arrivals == []


@pytest.mark.parametrize("free", ["", "-1", "1.5", "many", "²", "9" * 5000])
async def test_an_announcement_that_cannot_be_read(pool: PoolDriver, free: str) -> None:
    await pool.take()
    entry = (await pool.store.commands.xadd(pool.keys.freed, {"free": free})).decode()
    assert (await pool.take()).freed == [FreedEntry(entry, "", 0)]


async def test_fields_that_are_no_text(pool: PoolDriver) -> None:
    await pool.take()
    await pool.store.commands.xadd(pool.keys.intake[0], {b"\xff": b"\xfe"})
    assert [entry.fields for entry in (await pool.take()).arrivals] == [{"\ufffd": "\ufffd"}]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("what", ["an arrival", "an announcement"])
async def test_waiting_for_something(pool: PoolDriver, redis_settings: RedisSettings, protocol: int, what: str) -> None:
    await ensure_groups(pool.store, pool.keys)
    url = f"{redis_settings.url}?protocol={protocol}"
    store = Store(redis_settings.model_copy(update={"url": url}))
    try:
        reader = store.blocking()
        waiting = asyncio.create_task(wait_and_take(reader, pool.keys, "s1", block_ms=10_000))

        async def blocked() -> bool:
            server = await pool.store.node_of(pool.keys.waiting)
            return any(c["cmd"] == "xreadgroup" and "b" in c["flags"] for c in await server.client_list())

        await wait_until(blocked)
        if what == "an arrival":
            await pool.accept("a", priority=RequestPriority.LOW)
        else:
            await pool.store.commands.xadd(pool.keys.freed, {"engine": "e1", "free": 2})
        taken = await asyncio.wait_for(waiting, 5)
        assert [(entry.level, entry.fields["id"]) for entry in taken.arrivals] == (
            [(3, "a")] if what == "an arrival" else []
        )
        assert [(entry.engine, entry.free) for entry in taken.freed] == ([] if what == "an arrival" else [("e1", 2)])
    finally:
        await store.close()


async def test_waiting_for_nothing_ends(pool: PoolDriver) -> None:
    await ensure_groups(pool.store, pool.keys)
    assert not await wait_and_take(pool.store.blocking(), pool.keys, "s1", block_ms=1)


async def test_groups_are_made_once_and_see_what_was_there_before(pool: PoolDriver) -> None:
    await pool.accept("a")
    await asyncio.gather(*(ensure_groups(pool.store, pool.keys) for _ in range(5)))
    assert [entry.fields["id"] for entry in (await pool.take()).arrivals] == ["a"]


async def test_what_a_dead_scheduler_had_read_is_taken_over(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("x")
    await pool.waiting("y")
    await pool.finish("x")
    await one_of_each(pool)
    dead = await pool.take("dead")
    assert not await reclaim(pool.store, pool.keys, "s2", idle_ms=60_000)
    found = await reclaim(pool.store, pool.keys, "s2", idle_ms=0)
    assert sorted(e.entry_id for e in found.arrivals) == sorted(e.entry_id for e in dead.arrivals)
    assert found.freed == dead.freed
    for stream in (*pool.keys.intake, pool.keys.freed):
        consumers = await pool.store.commands.xinfo_consumers(stream, SCHEDULER_GROUP)
        assert all(c["pending"] == 0 for c in consumers if c["name"] != b"s2")


async def test_the_cursor_is_followed_to_its_end(pool: PoolDriver) -> None:
    # A hundred entries a call, of which a live head must not hide the rest.
    ids = [f"r{n}" for n in range(350)]
    await pool.accept(*ids)
    await pool.take("dead", arrivals=len(ids))
    found = await reclaim(pool.store, pool.keys, "s2", idle_ms=0)
    assert [entry.fields["id"] for entry in found.arrivals] == ids


async def test_entries_that_were_deleted_while_pending_are_skipped(pool: PoolDriver) -> None:
    await pool.accept("a", "b")
    taken = await pool.take("dead")
    await pool.store.commands.xdel(pool.keys.intake[2], taken.arrivals[0].entry_id)
    found = await reclaim(pool.store, pool.keys, "s2", idle_ms=0)
    assert [entry.fields["id"] for entry in found.arrivals] == ["b"]


async def test_who_leaves_with_nothing_pending_is_forgotten(pool: PoolDriver) -> None:
    await pool.accept("a")
    taken = await pool.take("s1")
    await pool.take("s2")
    for consumer in ("s1", "s2"):
        await leave(pool.store, pool.keys, consumer)
    names = {c["name"] for c in await pool.store.commands.xinfo_consumers(pool.keys.intake[2], SCHEDULER_GROUP)}
    assert names == {b"s1"}
    assert await pending(pool) == 1
    # Where nothing was pending it has left all the same.
    assert await pool.store.commands.xinfo_consumers(pool.keys.intake[0], SCHEDULER_GROUP) == []
    again = await reclaim(pool.store, pool.keys, "s3", idle_ms=0)
    assert [entry.entry_id for entry in again.arrivals] == [entry.entry_id for entry in taken.arrivals]


class OvertakenClient:
    """A client on which a last read, sent before it was cancelled, is carried out only while the reader leaves."""

    def __init__(self, client: Any, read: Callable[[], Awaitable[object]]) -> None:
        self._client = client
        self._read: Callable[[], Awaitable[object]] | None = read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def xgroup_delconsumer(self, *arguments: Any) -> Any:
        await self.catch_up()
        return await self._client.xgroup_delconsumer(*arguments)

    async def catch_up(self) -> None:
        read, self._read = self._read, None
        if read is not None:
            await read()


async def test_who_leaves_loses_nothing_that_it_read_at_the_last_moment(pool: PoolDriver) -> None:
    await pool.take("s1")
    await pool.accept("a", priority=RequestPriority.CRITICAL)
    client = pool.store.commands
    streams = {pool.keys.intake[RequestPriority.CRITICAL]: ">"}
    overtaken = OvertakenClient(client, lambda: client.xreadgroup(SCHEDULER_GROUP, "s1", streams))
    pool.store.commands = overtaken
    await leave(pool.store, pool.keys, "s1")
    pool.store.commands = client
    await overtaken.catch_up()
    assert [e.fields["id"] for e in (await reclaim(pool.store, pool.keys, "s2", idle_ms=0)).arrivals] == ["a"]


async def test_what_who_leaves_had_read_is_taken_over_at_once(pool: PoolDriver) -> None:
    """A scheduler that is restarted does not hold up what it had just taken until it would count as dead."""
    await pool.accept("a", "b", "c")
    taken = await pool.take("s1")
    assert len(taken.arrivals) == 3
    assert not await reclaim(pool.store, pool.keys, "s2", idle_ms=60_000)
    await leave(pool.store, pool.keys, "s1")
    again = await reclaim(pool.store, pool.keys, "s2", idle_ms=60_000)
    assert [entry.fields["id"] for entry in again.arrivals] == ["a", "b", "c"]
    assert not await reclaim(pool.store, pool.keys, "s3", idle_ms=60_000), "taken over, they are the other's"
    for entry in again.arrivals:
        await pool.admit(pool.admission(entry))


async def test_a_stream_without_its_group_says_so(pool: PoolDriver) -> None:
    with pytest.raises(Exception, match="NOGROUP"):
        await take(pool.store, pool.keys, "s1", arrivals=1)
