"""Fair starts: the scripts keep a pool's virtual time and its tenants' next starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sagellm_control.store.steps.admit import Admission, admit
from sagellm_control.store.steps.assign import Late, Move
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.condemn import condemn
from sagellm_control.store.steps.displace import displace
from sagellm_control.store.steps.expire import expire_waiting
from sagellm_control.store.steps.finish import Finish, finish
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.store.steps.rank import Charge
from sagellm_control.store.steps.rules import Rules
from sagellm_control.wire.priority import RequestPriority

from ..pool_driver import DONE, PoolDriver


async def fair_pool(pool: PoolDriver, *, slots: int = 0, credit_ms: float = 0.0) -> Rules:
    """A pool whose policy is fair, with an engine."""
    epoch = await set_policy(pool.store, pool.name, {"policy": "fair"}, {})
    await pool.engine(slots=slots)
    return Rules(epoch, fair=True, credit_ms=credit_ms)


async def arrive(
    pool: PoolDriver, rules: Rules, tenant: str, *ids: str, charge: float = 100.0, engine: str | None = None
) -> list[str]:
    """Arrivals of one tenant, in one batch."""
    await pool.accept(*ids, tenant=tenant)
    admissions = [
        Admission(e.level, e.entry_id, e.fields["id"], 0.0, engine, charge=Charge(charge, 10.0, 2.0))
        for e in (await pool.take()).arrivals
    ]
    admitted = await admit(pool.store, pool.name, admissions, rules)
    assert admitted is not None
    return admitted.results


async def starts(pool: PoolDriver) -> dict[str, float]:
    """Tenant -> next start, counted from the virtual time."""
    now = float(await pool.store.commands.get(pool.keys.virtual_time))
    found = await pool.store.commands.zrange(pool.keys.tenants, 0, -1, withscores=True)
    return {tenant.decode(): round(start - now, 3) for tenant, start in found}


async def test_tenants_take_turns_however_many_requests_one_has(pool: PoolDriver) -> None:
    rules = await fair_pool(pool)
    await arrive(pool, rules, "busy", "b1", "b2", "b3", "b4")
    await arrive(pool, rules, "small", "s1", "s2")
    assert await pool.waiting_ids() == ["b1", "s1", "b2", "s2", "b3", "b4"]
    assert await starts(pool) == {"busy": 400.0, "small": 200.0}


async def test_who_is_given_up_was_not_served(pool: PoolDriver) -> None:
    """Else its tenant would have something waiting for ever, and keep whatever lead it has."""
    rules = await fair_pool(pool)
    await arrive(pool, rules, "busy", "b1", "b2")
    await arrive(pool, rules, "poisoned", "p1")
    assert await condemn(pool.store, pool.name, "p1", "a reason")
    assert await starts(pool) == {"busy": 200.0, "poisoned": 0.0}
    assert b"ranked/poisoned" not in await pool.store.commands.hgetall(pool.keys.backlog)


async def test_who_was_idle_is_lifted_to_the_virtual_time(pool: PoolDriver) -> None:
    rules = await fair_pool(pool)
    await arrive(pool, rules, "busy", "b1", "b2", "b3")
    await pool.engine(slots=2)
    assert (await pool.assign(Move("b1", 0, "e1"), Move("b2", 0, "e1"))).results == ["assigned"] * 2
    assert await starts(pool) == {"busy": 200.0}  # virtual time is the start of b2
    await arrive(pool, rules, "late", "l1", charge=50.0)
    await arrive(pool, rules, "late", "l2", charge=50.0)
    assert await pool.waiting_ids() == ["l1", "l2", "b3"]


async def test_who_was_idle_starts_ahead_by_its_credit_and_no_more(pool: PoolDriver) -> None:
    rules = await fair_pool(pool, credit_ms=120.0)
    await arrive(pool, rules, "busy", *(f"b{n}" for n in range(6)))
    await pool.engine(slots=4)
    assigned = await pool.assign(*(Move(f"b{n}", 0, "e1") for n in range(4)))
    assert assigned.results == ["assigned"] * 4
    assert await starts(pool) == {"busy": 300.0}  # virtual time is the start of b3
    await arrive(pool, rules, "late", "l1", "l2", "l3")
    assert await starts(pool) == {"busy": 300.0, "late": 180.0}
    assert await pool.waiting_ids() == ["l1", "l2", "l3", "b4", "b5"]


async def test_whose_credit_is_not_whole_is_remembered(pool: PoolDriver) -> None:
    rules = await fair_pool(pool, slots=1000, credit_ms=1e6)
    for number in range(100):
        await arrive(pool, rules, f"t{number}", f"r{number}", charge=1.0, engine="e1")
    assert len(await starts(pool)) == 100


async def test_direct_assignment_moves_the_virtual_time(pool: PoolDriver) -> None:
    rules = await fair_pool(pool, slots=8)
    assert await arrive(pool, rules, "a", "1", "2", "3", engine="e1") == ["assigned"] * 3
    assert await starts(pool) == {"a": 100.0}


async def test_tenants_that_are_idle_are_forgotten(pool: PoolDriver) -> None:
    # They would start at the virtual time all the same.
    rules = await fair_pool(pool, slots=1000)
    for number in range(300):
        await arrive(pool, rules, f"t{number}", f"r{number}", charge=1.0, engine="e1")
        await arrive(pool, rules, "busy", f"b{number}", charge=10.0, engine="e1")
    assert len(await starts(pool)) <= 64 + 8


async def test_one_batch_is_admitted_in_the_order_of_its_starts(pool: PoolDriver) -> None:
    rules = await fair_pool(pool)
    await arrive(pool, rules, "busy", "b1", "b2")
    await pool.engine(slots=1)
    await pool.accept("b3", tenant="busy")
    await pool.accept("s1", tenant="small")
    admissions = [
        Admission(e.level, e.entry_id, e.fields["id"], 0.0, "e1", charge=Charge(100.0, 10.0, 2.0))
        for e in (await pool.take()).arrivals
    ]
    admitted = await admit(pool.store, pool.name, admissions, rules)
    assert admitted is not None
    assert admitted.results == ["waiting", "waiting"]  # b1 is ahead of both
    assert await pool.waiting_ids() == ["b1", "s1", "b2", "b3"]


async def test_what_was_served_is_settled(pool: PoolDriver) -> None:
    rules = await fair_pool(pool, slots=8)
    await arrive(pool, rules, "a", "1", "2", engine="e1")
    done = Finish("1", 1, 1, DONE, output_tokens=60)  # 10 were expected, at 2 ms each
    assert await finish(pool.store, pool.name, "e1", pool.worker("e1"), [done]) == [True]
    assert await starts(pool) == {"a": 200.0}
    assert await finish(pool.store, pool.name, "e1", pool.worker("e1"), [done]) == [True]
    assert await starts(pool) == {"a": 200.0}, "sent again, it is settled once"
    few = Finish("2", 1, 1, DONE, output_tokens=0)
    await finish(pool.store, pool.name, "e1", pool.worker("e1"), [few])
    assert await starts(pool) == {"a": 180.0}


async def test_what_never_ran_is_not_charged(pool: PoolDriver) -> None:
    rules = await fair_pool(pool)
    await arrive(pool, rules, "a", "1", "2")
    await cancel(pool.store, pool.name, "2")
    assert await starts(pool) == {"a": 100.0}


async def test_what_was_ranked_on_another_clock_does_not_move_that_of_now(pool: PoolDriver) -> None:
    rules = await fair_pool(pool, slots=4)
    await arrive(pool, rules, "busy", "b1", "b2", "b3", charge=3_600_000.0)
    rules = replace(rules, epoch=await set_policy(pool.store, pool.name, {"output_weight": "3"}, {}))
    await arrive(pool, rules, "small", "s1")
    began = await pool.store.commands.get(pool.keys.virtual_time)
    assert await pool.waiting_ids() == ["b1", "s1", "b2", "b3"]
    served = await pool.assign(*(Move(request_id, 0, "e1") for request_id in ("b1", "s1", "b2", "b3")))
    assert served.results == ["assigned"] * 4
    assert await pool.store.commands.get(pool.keys.virtual_time) == began
    assert await starts(pool) == {"small": 100.0}
    await arrive(pool, rules, "busy", "b4")
    assert await starts(pool) == {"small": 100.0, "busy": 100.0}, "nothing counts as waiting that does not"


@pytest.mark.parametrize("how", ["cancelled", "displaced", "expired", "refused", "short"])
async def test_what_was_charged_on_another_clock_gets_nothing_back_from_that_of_now(pool: PoolDriver, how: str) -> None:
    rules = await fair_pool(pool)
    await arrive(pool, rules, "busy", "b1", charge=3_600_000.0)
    rules = replace(rules, epoch=await set_policy(pool.store, pool.name, {"output_weight": "3"}, {}))
    await arrive(pool, rules, "busy", "b2")
    match how:
        case "cancelled":
            await cancel(pool.store, pool.name, "b1")
        case "displaced":
            assert await displace(pool.store, pool.name, RequestPriority.HIGH, ["b1"], retry_after_s=1) == ["b1"]
        case "expired":
            await pool.store.commands.hset(pool.keys.record("b1"), "queue_ttl_ms", "1")
            await pool.store.commands.zadd(pool.keys.expiries, {"b1": pool.clock.now_ms})
            assert (await expire_waiting(pool.store, pool.name)).of_class == 1
        case "short":
            await pool.engine(slots=4)
            assert (await pool.assign(Move("b1", 0, "e1"))).results == ["assigned"]
            ended = Finish("b1", 1, 1, DONE, output_tokens=0)
            assert await finish(pool.store, pool.name, "e1", pool.worker("e1"), [ended]) == [True]
        case _:
            refused = await pool.assign(Move("b1", 0, None, late=Late.REFUSE))
            assert refused.results == ["refused"]
    assert await pool.state("b1") == "finished"
    assert await starts(pool) == {"busy": 100.0}


async def test_sent_again_nothing_is_charged_twice(pool: PoolDriver) -> None:
    rules = await fair_pool(pool)
    await pool.accept("1", tenant="a")
    (entry,) = (await pool.take()).arrivals
    admission = Admission(entry.level, entry.entry_id, "1", 0.0, charge=Charge(100.0, 10.0, 2.0))
    for expected in ("waiting", "gone"):
        admitted = await admit(pool.store, pool.name, [admission], rules)
        assert admitted is not None
        assert admitted.results == [expected]
    assert await starts(pool) == {"a": 100.0}
