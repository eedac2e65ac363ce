"""The policy of a pool is recorded in it, and engines change what they serve: schedulers follow."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sagellm_control.scheduler.policy_settings import DEFAULT_ORDER, DEFAULT_PLACEMENT
from sagellm_control.scheduler.settings import SchedulerSettings
from sagellm_control.wire.priority import RequestPriority

from ..pool_driver import PoolDriver
from ..waiting import wait_until
from .running import everything_is_settled, schedulers


async def order_of(pool: PoolDriver) -> list[str]:
    """In which order a scheduler puts a patient request that came first and an urgent one that came later."""
    await pool.accept("patient", priority=RequestPriority.LOW)
    await pool.accept("urgent", priority=RequestPriority.CRITICAL)
    await wait_until(lambda: everything_is_settled(pool))
    return await pool.waiting_ids()


async def recorded(pool: PoolDriver) -> dict[bytes, bytes]:
    return await pool.store.commands.hgetall(pool.keys.settings)


async def test_by_default_the_urgent_go_first_and_nothing_is_recorded(pool: PoolDriver) -> None:
    async with schedulers(pool):
        assert await order_of(pool) == ["urgent", "patient"]
    assert await recorded(pool) == {}


async def test_a_policy_that_is_asked_for_is_recorded(pool: PoolDriver) -> None:
    async with schedulers(pool, policy="fifo", placement="round_robin"):
        assert await order_of(pool) == ["patient", "urgent"]
    assert await recorded(pool) == {b"policy": b"fifo", b"placement": b"round_robin", b"epoch": b"1"}


async def test_within_a_batch_the_policy_decides_who_gets_the_last_place(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.accept("patient", priority=RequestPriority.LOW)
    await pool.accept("urgent", priority=RequestPriority.CRITICAL)
    # One take has both, the urgent one first.
    async with schedulers(pool, policy="fifo"):
        await wait_until(lambda: everything_is_settled(pool))
    assert await pool.holds() == {"patient"}


async def test_a_second_scheduler_follows_what_is_recorded(pool: PoolDriver) -> None:
    async with schedulers(pool, policy="fifo"), schedulers(pool) as (second,):
        assert second.policy.order.name == "fifo"


async def test_a_change_is_followed_by_all(pool: PoolDriver) -> None:
    async with schedulers(pool, 3, sweep_s=0.02) as running:
        await pool.store.commands.hset(pool.keys.settings, mapping={"policy": "fifo", "placement": "round_robin"})
        names = {("fifo", "round_robin")}
        await wait_until(lambda: {(s.policy.order.name, s.policy.placement.name) for s in running} == names)
        assert await order_of(pool) == ["patient", "urgent"]
        await pool.store.commands.delete(pool.keys.settings)
        await wait_until(lambda: {s.policy.order.name for s in running} == {DEFAULT_ORDER})


@pytest.mark.parametrize("field", ["policy", "placement"])
@pytest.mark.parametrize("value", ["lottery", "", b"\xff\xfe"], ids=["unknown", "empty", "no text"])
async def test_a_name_that_is_not_known_changes_nothing(pool: PoolDriver, field: str, value: str | bytes) -> None:
    await pool.store.commands.hset(pool.keys.settings, field, value)
    async with schedulers(pool, sweep_s=0.02) as (scheduler,):
        assert await order_of(pool) == ["urgent", "patient"]
        assert (scheduler.policy.order.name, scheduler.policy.placement.name) == (DEFAULT_ORDER, DEFAULT_PLACEMENT)


@pytest.mark.parametrize(("field", "names"), [("policy", "fifo, priority"), ("placement", "round_robin, least_loaded")])
def test_a_name_that_is_not_known_is_refused_where_it_is_asked_for(field: str, names: str) -> None:
    with pytest.raises(ValidationError, match=names):
        SchedulerSettings(**{field: "lottery"})


# Requests for a model that only some engines serve (a LoRA adapter, say) must not die for what a scheduler has not
# read yet: the gateway knows the model from the engine's registration.


async def assert_taken(pool: PoolDriver, request_id: str, engine: str) -> None:
    await wait_until(lambda: everything_is_settled(pool))
    assert await pool.dead() == []
    assert request_id in await pool.holds(engine)


async def test_a_model_that_a_new_engine_brings(pool: PoolDriver) -> None:
    await pool.engine("e1")
    async with schedulers(pool):
        await pool.engine("e2", models=("lora",))
        await pool.accept("a", model="lora")
        await assert_taken(pool, "a", "e2")


async def test_a_model_that_a_known_engine_has_learned(pool: PoolDriver) -> None:
    await pool.engine("e1")
    async with schedulers(pool):
        await pool.engine("e1", models=("lora",))
        await pool.accept("a", model="lora")
        await assert_taken(pool, "a", "e1")


@pytest.mark.parametrize("away", ["starting", "draining"])
async def test_a_model_whose_engine_is_not_ready_now(pool: PoolDriver, away: str) -> None:
    await pool.engine("e1", models=("lora",), state=away.upper())
    async with schedulers(pool):
        await pool.accept("a", model="lora")
        await wait_until(lambda: everything_is_settled(pool))
        assert await pool.dead() == []
        await pool.engine("e1", models=("lora",))
        await wait_until(lambda: pool.holds("e1"))


async def test_more_slots_are_used(pool: PoolDriver) -> None:
    await pool.engine(slots=1)
    async with schedulers(pool):
        await pool.engine(slots=3)
        await pool.accept("a", "b", "c", "d")
        await wait_until(lambda: everything_is_settled(pool))
    assert len(await pool.holds()) == 3
