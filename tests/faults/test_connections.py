"""What connections to Redis do to commands: lost replies, cancellations half way, silence."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from redis.exceptions import RedisError

from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.take import ensure_groups, wait_and_take

from ..pool_driver import PoolDriver
from ..waiting import wait_until
from .tcp_proxy import TcpProxy


async def test_a_step_whose_reply_is_cut_off_is_carried_out_once(
    pool: PoolDriver, proxied_pool: PoolDriver, proxy: TcpProxy
) -> None:
    """redis-py's own retries would do it twice and not tell."""
    await pool.engine("e1", slots=2)
    proxied_pool.rows = pool.rows
    await pool.running("warm-up")  # the scripts are loaded: what is cut is the reply to EVALSHA
    await pool.append("warm-up", 1)
    await pool.finish("warm-up", 2)

    proxy.cut_reply_to(b"victim")
    await proxied_pool.accept("victim")
    admissions = [pool.admission(entry) for entry in (await pool.take()).arrivals]
    proxy.cut_reply_to(b"victim")
    await proxied_pool.admit(*admissions)
    proxy.cut_reply_to(b"victim")
    await proxied_pool.assign(Move("victim", 0, "e1"))
    proxy.cut_reply_to(b"victim")
    assert await proxied_pool.claim("victim") == "running"
    proxy.cut_reply_to(b"victim")
    assert await proxied_pool.append("victim", 1)
    proxy.cut_reply_to(b"victim")
    assert await proxied_pool.finish("victim", 2)

    assert proxy.cut_replies == 6
    assert [event.position for event in await pool.events("victim")] == [(1, 1), (1, 2)]
    assert await pool.counters() == {"accepted": 2, "completed": 2}
    assert (await pool.holds(), await pool.room()) == (set(), {"e1": 2})


async def test_a_plain_command_is_not_sent_twice(proxied: RedisSettings, store: Store, proxy: TcpProxy) -> None:
    through = Store(proxied)
    try:
        proxy.cut_reply_to(b"counted")
        with pytest.raises(RedisError):
            await through.commands.sadd(store.keys.pools(), "counted")
        proxy.cut_reply_to(b"dead-entry")
        with pytest.raises(RedisError):
            await through.commands.xadd(store.keys.pool("m").dead, {"what": "dead-entry"})
        assert await store.commands.xlen(store.keys.pool("m").dead) == 1
    finally:
        await through.close()


@pytest.mark.parametrize("left", ["closed", "unread"])
async def test_a_connection_of_no_use_is_replaced_before_it_is_used(
    redis_settings: RedisSettings, store: Store, left: str
) -> None:
    """What the server closed while nobody used it, as a restart or its ``timeout`` does, or in which an answer lies
    that nobody asked for; redis-py 8 takes both as they are."""
    ours = Store(redis_settings)
    try:
        server, *_ = await ours.servers()
        ids = await asyncio.gather(*(server.client_id() for _ in range(5)))
        idle: list[Any] = server.connection_pool._available_connections
        assert len(idle) == len(set(ids)) > 1
        if left == "closed":
            same_server, *_ = await store.servers()
            for number in ids:
                await same_server.client_kill_filter(_id=number)
            await wait_until(lambda: all(each._reader.at_eof() for each in idle), what="all are at their end")
        else:
            for each in idle:
                each.tell("ECHO", "for nobody")
            await wait_until(lambda: all(each._reader._buffer for each in idle), what="something lies in all")
        words = [f"to-{number}" for number in ids]
        assert await asyncio.gather(*(server.echo(word) for word in words)) == [word.encode() for word in words]
    finally:
        await ours.close()


async def test_no_command_gets_the_reply_of_one_that_was_cancelled(
    proxied: RedisSettings, store: Store, proxy: TcpProxy
) -> None:
    """redis-py#2665: cancelled between send and reply, the connection went back to the pool with the reply to come."""
    names = store.keys.pool("m")
    await store.commands.rpush(names.record("one"), "first")
    await store.commands.rpush(names.record("other"), "second")
    through = Store(proxied)
    try:
        assert await through.commands.ping()
        for _ in range(5):
            proxy.hold()
            said = proxy.said
            asking = asyncio.create_task(through.commands.lindex(names.record("one"), 0))
            await wait_until(lambda said=said: proxy.said > said, what="the command is on its way")
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            proxy.release()
            assert await through.commands.lindex(names.record("other"), 0) == b"second"
    finally:
        await through.close()
        await store.commands.delete(names.record("one"), names.record("other"))


async def test_a_read_may_block_for_longer_than_a_command_may_take(pool: PoolDriver, proxied: RedisSettings) -> None:
    """redis-py 8 gives every connection a timeout of 5 s, with which each longer BLOCK fails (docket#425)."""
    store = Store(proxied.model_copy(update={"command_timeout_s": 0.2}))
    try:
        await ensure_groups(store, pool.keys)
        began = time.monotonic()
        assert not await wait_and_take(store.blocking(0.8), pool.keys, "s1", block_ms=800)
        assert time.monotonic() - began >= 0.75
    finally:
        await store.close()


async def test_a_blocking_read_notices_that_the_server_went_without_a_word(
    pool: PoolDriver, proxied: RedisSettings, proxy: TcpProxy
) -> None:
    """Without it the worker would hold its lease and never hear of a request again."""
    store = Store(proxied.model_copy(update={"command_timeout_s": 0.2}))
    try:
        await ensure_groups(store, pool.keys)
        reader = store.blocking(0.2)
        reading = asyncio.create_task(wait_and_take(reader, pool.keys, "s1", block_ms=200))
        await wait_until(lambda: len(proxy.links) == 2, what="the read is under way")
        proxy.lose()
        with pytest.raises(RedisError):
            await reading
        proxy.find()
        await pool.accept("a")
        assert (await wait_and_take(reader, pool.keys, "s1", block_ms=200)).arrivals
    finally:
        await store.close()


async def test_a_burst_waits_for_connections(proxied: RedisSettings) -> None:
    """And does not open a thousand, nor fail for want of one."""
    store = Store(proxied.model_copy(update={"command_timeout_s": 30.0}))  # a busy machine is no want
    try:
        assert all(await asyncio.gather(*(store.commands.ping() for _ in range(500))))
    finally:
        await store.close()


async def test_a_server_that_became_a_replica_is_left(store: Store, proxied: RedisSettings) -> None:
    """After a failover READONLY comes without a disconnect, and would come for ever on the same connection."""
    through = Store(proxied)
    name = store.keys.pools()
    try:
        assert await through.commands.sadd(name, "a") == 1
        identity = await through.commands.client_id()
        assert await through.commands.client_id() == identity
        await store.commands.replicaof("127.0.0.1", 1)
        try:
            with pytest.raises(RedisError, match="replica"):
                await through.commands.sadd(name, "b")
        finally:
            await store.commands.replicaof("NO", "ONE")
        assert await through.commands.sadd(name, "b") == 1
        assert await through.commands.client_id() != identity
    finally:
        await through.close()
