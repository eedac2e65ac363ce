"""Scripts: run by their hash, given again to a server that lost them, sent again when a reply was lost."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from sagellm_control.store.connect import Store
from sagellm_control.store.script import Script
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.attach import attach
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.engines import drain_engine, remove_engine, renew_engine, retire_engine
from sagellm_control.store.steps.take import reclaim, take
from sagellm_control.wire.states import EngineState

from ..pool_driver import LEASE_MS, PoolDriver
from .loses_replies import LosesReplies


async def test_a_server_that_forgets_its_scripts_before_every_step(pool: PoolDriver) -> None:
    flush = (await pool.store.node_of(pool.keys.waiting)).script_flush
    steps = [
        lambda: pool.engine("e1", slots=2),
        lambda: pool.accept("a", "b", "c", "d"),
        lambda: admit_all(pool),
        lambda: pool.assign(Move("a", 0, "e1"), Move("b", 0, "e1")),
        lambda: pool.claim("a"),
        lambda: pool.append("a", 1),
        lambda: pool.finish("a", 2),
        lambda: pool.requeue("b"),
        lambda: cancel(pool.store, pool.name, "c"),
        lambda: attach(pool.store, pool.name, "d", "second"),
        lambda: renew_engine(pool.store, pool.rows["e1"], [], lease_ms=LEASE_MS),
        lambda: drain_engine(pool.store, pool.name, "e1"),
        lambda: retire_engine(pool.store, pool.name, "e1", "w-e1", EngineState.STOPPED, ""),
        lambda: remove_engine(pool.store, pool.name, "e1"),
    ]
    for step in steps:
        await flush()
        await step()
    assert [(await pool.record(r))["state"] for r in "abcd"] == ["finished", "waiting", "finished", "waiting"]
    assert (await pool.record("a"))["outcome"] == "completed"
    assert await pool.store.commands.exists(pool.keys.engine("e1")) == 0


async def admit_all(pool: PoolDriver) -> None:
    await (await pool.store.node_of(pool.keys.waiting)).script_flush()
    taken = await pool.take()
    await (await pool.store.node_of(pool.keys.waiting)).script_flush()
    await pool.admit(*(pool.admission(entry) for entry in taken.arrivals))


@pytest.mark.parametrize("error", [ConnectionError, TimeoutError])
async def test_a_step_whose_reply_was_lost_is_done_once(pool: PoolDriver, error: type[Exception]) -> None:
    await pool.engine("e1", slots=2)
    await pool.running("warm-up")  # the scripts are loaded
    await pool.append("warm-up", 1)
    await pool.finish("warm-up", 2)
    client = pool.store.commands

    def lossy() -> None:
        pool.store.commands = LosesReplies(client, error, times=1)

    lossy()
    # New work is not sent again to a server that says nothing; it may be there all the same.
    with pytest.raises(TimeoutError) if error is TimeoutError else nullcontext():
        await pool.accept("a")
    pool.store.commands = client
    admissions = [pool.admission(entry) for entry in (await pool.take()).arrivals]
    lossy()
    await pool.admit(*admissions)
    lossy()
    await pool.assign(Move("a", 0, "e1"))
    lossy()
    assert await pool.claim("a") == "running"
    lossy()
    assert await pool.append("a", 1)
    lossy()
    assert await pool.finish("a", 2)
    pool.store.commands = client
    assert [event.position for event in await pool.events("a")] == [(1, 1), (1, 2)]
    assert await pool.counters() == {"accepted": 2, "completed": 2}
    assert (await pool.holds(), await pool.room()) == (set(), {"e1": 2})


async def test_arrivals_whose_reply_was_lost_are_found_by_reclaiming(pool: PoolDriver) -> None:
    await pool.take()  # the script is loaded
    await pool.accept("a")
    client, pool.store.commands = pool.store.commands, LosesReplies(pool.store.commands, TimeoutError, times=1)
    taken = await take(pool.store, pool.keys, "s1", arrivals=9)
    pool.store.commands = client
    found = taken.arrivals or (await reclaim(pool.store, pool.keys, "s1", idle_ms=0)).arrivals
    assert [entry.fields["id"] for entry in found] == ["a"]


async def test_what_is_lost_twice_is_an_error(pool: PoolDriver) -> None:
    await pool.accept("a")
    pool.store.commands = LosesReplies(pool.store.commands, TimeoutError, times=2)
    with pytest.raises(TimeoutError):
        await pool.accept("b")


async def test_an_error_of_the_script_is_not_tried_again(store: Store) -> None:
    await store.commands.set(store.keys.pools(), "not a hash")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await Script("attach")(store, [store.keys.pools()], ["inbox"])
    assert await store.commands.get(store.keys.pools()) == b"not a hash"
