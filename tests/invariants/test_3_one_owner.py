"""Invariant 3. One owner: a worker that was paused and wakes up after its lease lapsed changes nothing."""

from __future__ import annotations

from sagellm_control.store.steps.engines import renew_engine
from sagellm_control.wire.event import CHUNK, END, read_frames

from ..lapsed import retire_lapsed
from ..pool_driver import LEASE_MS, PoolDriver
from ..pool_state import read_state
from ..scheduler.running import schedulers
from ..waiting import wait_until


async def test_one_owner_while_a_paused_worker_goes_on_after_every_step_of_the_next(pool: PoolDriver) -> None:
    paused = await pool.engine("e1")
    async with schedulers(pool), pool.store.subscriber().pubsub() as client:
        await client.subscribe("inbox-of-a")
        await client.get_message(timeout=5)
        await pool.accept("a")
        await wait_until(lambda: pool.holds("e1"))
        await pool.claim("a", engine="e1")

        async def wakes_up() -> None:
            before = await read_state(pool.store, pool.keys)
            assert await renew_engine(pool.store, paused, [("a", 1)], lease_ms=LEASE_MS) is None
            assert await pool.claim("a", 1, engine="e1") == "lost"
            assert not await pool.append("a", 1, b"from the paused one", engine="e1")
            assert not await pool.finish("a", 2, engine="e1")
            assert await pool.requeue("a", attempt=1, engine="e1") == "lost"
            assert await read_state(pool.store, pool.keys) == before

        pool.clock.advance(LEASE_MS)
        await retire_lapsed(pool)
        await wakes_up()
        await pool.engine("e2")
        await wait_until(lambda: pool.holds("e2"))
        await wakes_up()
        assert await pool.claim("a", 2, engine="e2") == "running"
        await wakes_up()
        assert await pool.append("a", 1, b"from the next one", attempt=2, engine="e2")
        await wakes_up()
        assert await pool.finish("a", 2, attempt=2, engine="e2")
        await wakes_up()

        heard = []
        while message := await client.get_message(ignore_subscribe_messages=True, timeout=0.2):
            heard += read_frames(message["data"])
    assert [(event.attempt, event.type) for event in heard] == [(2, CHUNK), (2, END)]
    assert heard[0].payload == b"from the next one"
    assert heard == await pool.events("a")
