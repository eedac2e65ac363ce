"""Garbage in an intake stream goes to the dead stream with a reason, is counted, and blocks nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sagellm_control.store.steps.engines import renew_engine
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import Outcome

from ..pool_driver import LEASE_MS, PoolDriver
from ..waiting import wait_until
from .running import everything_is_settled, metric, schedulers

GOOD = {"id": "nobody", "priority": "2", "arrived_ms": "1800000000001"}
LONG = "9" * 5000

GARBAGE: dict[str, tuple[dict[Any, Any], str]] = {
    "no field that we know": ({"hello": "world"}, "'id'"),
    "no id": ({k: v for k, v in GOOD.items() if k != "id"}, "'id'"),
    "empty id": (GOOD | {"id": ""}, "'id'"),
    "id that names a body": (GOOD | {"id": "real:body"}, "'id'"),
    "id that names an output log": (GOOD | {"id": "real:output"}, "'id'"),
    "id with a hash tag": (GOOD | {"id": "{other}"}, "'id'"),
    "id with a newline": (GOOD | {"id": "a\nb"}, "'id'"),
    "id that is too long": (GOOD | {"id": "x" * 65}, "'id'"),
    "id that is no text": (GOOD | {"id": b"\xff\xfe"}, "'id'"),
    "id of no request": (GOOD, "no record"),
    "id of a request that exists": (GOOD | {"id": "real"}, "exists"),
    "no priority": ({k: v for k, v in GOOD.items() if k != "priority"}, "priority"),
    "priority in words": (GOOD | {"priority": "urgent"}, "priority"),
    "priority beyond the last": (GOOD | {"priority": "5"}, "priority"),
    "priority of 5000 digits": (GOOD | {"priority": LONG}, "priority"),
    "no time of arrival": ({k: v for k, v in GOOD.items() if k != "arrived_ms"}, "arrived_ms"),
    "arrived yesterday": (GOOD | {"arrived_ms": "yesterday"}, "arrived_ms"),
    "arrived at nan": (GOOD | {"arrived_ms": "nan"}, "arrived_ms"),
    "arrived at infinity": (GOOD | {"arrived_ms": "inf"}, "arrived_ms"),
    "arrived before time": (GOOD | {"arrived_ms": "-inf"}, "arrived_ms"),
    "timeout in JSON": (GOOD | {"timeout_ms": '{"a":'}, "timeout_ms"),
    "timeout of 5000 digits": (GOOD | {"timeout_ms": LONG}, "timeout_ms"),
    "tokens below zero": (GOOD | {"prompt_tokens": "-1"}, "prompt_tokens"),
    "tokens with a fraction": (GOOD | {"max_tokens": "1.5"}, "max_tokens"),
    "objective in words": (GOOD | {"slo_ms": "soon"}, "slo_ms"),
    "unknown model": (GOOD | {"model": "never-heard-of"}, "never-heard-of"),
    "unknown model with a long name": (GOOD | {"model": "m" * 10_000}, "mmm"),
    "a megabyte": (GOOD | {"id": "", "junk": "x" * 1_000_000}, "'id'"),
    "a thousand fields": ({f"f{n}": n for n in range(1000)}, "'id'"),
}


@pytest.mark.parametrize("level", [RequestPriority.CRITICAL, RequestPriority.BACKGROUND], ids=str)
@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_is_buried_and_blocks_nothing(pool: PoolDriver, name: str, level: RequestPriority) -> None:
    entry, reason = GARBAGE[name]
    await pool.engine(slots=2)
    await pool.running("real")
    before = await pool.record("real")
    async with schedulers(pool):
        await pool.store.commands.xadd(pool.keys.intake[level], entry)
        await pool.accept("good")

        async def settled() -> bool:
            return "good" in await pool.holds() and await everything_is_settled(pool)

        await wait_until(settled)
    (copy,) = await pool.dead()
    assert reason in copy["reason"]
    assert len(copy["reason"]) < 300
    assert sum(map(len, copy.values())) < 70_000
    assert (await pool.counters())["garbage"] == 1
    assert metric(pool, "admitted", result="dead") == 1
    assert await pool.record("real") == before
    assert await pool.store.commands.exists(pool.keys.body("real"))


async def test_who_asked_for_a_model_that_is_gone_is_told_so(pool: PoolDriver) -> None:
    """Its gateway knew the model when it took the request."""
    await pool.engine()
    await pool.accept("late", model="removed")
    async with schedulers(pool):
        await wait_until(pool.dead)
    await pool.accept("again", model="removed", attempt=1000)  # its record was lost, and an attempt may have run
    async with schedulers(pool):
        await wait_until(lambda: _buried(pool, 2))
    assert (await pool.events("again"))[-1].position > (1000, 0), "else whoever has read an attempt would not see it"
    ending = await pool.ending("late")
    assert (ending.outcome, ending.status, ending.code) == (Outcome.DEAD, 404, "model_not_found")
    assert "'removed'" in ending.message


async def _buried(pool: PoolDriver, number: int) -> bool:
    return len(await pool.dead()) == number


async def test_garbage_among_good_ones_in_one_batch(pool: PoolDriver) -> None:
    await pool.engine(slots=50)
    db = pool.store.commands
    for n, (entry, _) in enumerate(GARBAGE.values()):
        await pool.accept(f"good-{n}")
        await db.xadd(pool.keys.intake[2], entry)
    async with schedulers(pool, sweep_s=0.05, reclaim_idle_s=0.05):

        async def settled() -> bool:
            return await everything_is_settled(pool)

        await wait_until(settled)
    assert len(await pool.holds()) == len(GARBAGE)
    assert (await pool.counters())["garbage"] == len(GARBAGE)
    assert len(await pool.dead()) == len(GARBAGE)


async def test_a_record_that_is_of_another_type_stops_nobody(pool: PoolDriver) -> None:
    await pool.engine(slots=5)
    await pool.accept("before")
    await pool.store.commands.set(pool.keys.record("bad"), "somebody was here")
    await pool.store.commands.xadd(pool.keys.intake[2], GOOD | {"id": "bad"})
    await pool.accept("behind")
    async with schedulers(pool):
        await wait_until(lambda: everything_is_settled(pool))
    assert await pool.holds() == {"before", "behind"}
    (copy,) = await pool.dead()
    assert (copy["request"], copy["reason"]) == ("bad", "no record of this request")
    await pool.store.commands.delete(pool.keys.record("bad"))


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_body_that_is_of_another_type_stops_nobody(pool: PoolDriver, at_once: bool) -> None:
    await pool.engine(slots=5, limit=None if at_once else 0)
    await pool.accept("before", "bad", "behind")
    await pool.store.commands.delete(pool.keys.body("bad"))
    await pool.store.commands.hset(pool.keys.body("bad"), "somebody", "was here")
    async with schedulers(pool):
        await wait_until(lambda: everything_is_settled(pool))
        if not at_once:
            await renew_engine(pool.store, replace(pool.rows["e1"], limit=None), [], lease_ms=LEASE_MS)
        await wait_until(pool.holds, what="they are assigned")
        await wait_until(lambda: everything_is_settled(pool))
    # Its worker finds that it has no body.
    assert await pool.holds() == {"before", "bad", "behind"}
    assert [entry.get("body", "") != "" for entry in await pool.assigned_entries()] == [True, False, True]
    assert await pool.dead() == []


@pytest.mark.parametrize(
    "entry",
    [{"hello": "world"}, {"engine": "never-heard-of", "free": "9"}, {"engine": "e1", "free": LONG}],
    ids=["no engine", "unknown engine", "5000 digits"],
)
async def test_an_announcement_that_makes_no_sense(pool: PoolDriver, entry: dict[str, str]) -> None:
    await pool.engine()
    await pool.running("busy")
    async with schedulers(pool):
        await pool.accept("a")
        await wait_until(lambda: pool.waiting_ids())
        await pool.store.commands.xadd(pool.keys.freed, entry)
        await wait_until(lambda: everything_is_settled(pool))
        await pool.finish("busy")
        await wait_until(lambda: pool.holds())
    assert await pool.holds() == {"a"}


async def test_an_announcement_that_promises_too_much_fills_nobody(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.running("x", "y")
    async with schedulers(pool):
        await pool.accept("a", "b")
        await wait_until(lambda: pool.waiting_ids())
        await pool.store.commands.xadd(pool.keys.freed, {"engine": "e1", "free": "999999"})
        await wait_until(lambda: everything_is_settled(pool))
    assert await pool.holds() == {"x", "y"}
