"""The scripts and ``scheduler.tenant_clock`` keep the same virtual time: what the simulator shows is what happens."""

from __future__ import annotations

import random

import pytest

from sagellm_control.scheduler.tenant_clock import TenantClock
from sagellm_control.store.steps.admit import Admission, admit
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.finish import Finish, finish
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.store.steps.rank import Charge
from sagellm_control.store.steps.rules import Rules

from ..pool_driver import DONE, PoolDriver

PER_TOKEN = 2.0


@pytest.mark.parametrize("seed", range(6))
async def test_both_give_the_same_starts(pool: PoolDriver, seed: int) -> None:
    dice = random.Random(seed)
    epoch = await set_policy(pool.store, pool.name, {"policy": "fair"}, {})
    credit_ms = dice.choice([0.0, 300.0])
    rules = Rules(epoch, fair=True, credit_ms=credit_ms)
    twin = TenantClock(pool.clock.now_ms, credit_ms)
    await pool.engine(slots=1000)
    starts: dict[str, float] = {}
    charges: dict[str, float] = {}
    tenants: dict[str, str] = {}
    running: list[str] = []
    for number in range(120):
        waiting = await pool.waiting_ids()
        match dice.choice(["arrive", "arrive", "assign", "assign", "finish", "cancel"]):
            case "arrive":
                request_id, tenant = f"r{number}", dice.choice("abc")
                charge = float(dice.randrange(10, 500))
                await pool.accept(request_id, tenant=tenant)
                (entry,) = (await pool.take()).arrivals
                # Handicaps let virtual time run ahead of who waits.
                handicap = dice.choice([0.0, 5000.0])
                admission = Admission(entry.level, entry.entry_id, request_id, handicap)
                admission.charge = Charge(charge, 10.0, PER_TOKEN)
                assert await admit(pool.store, pool.name, [admission], rules) is not None
                starts[request_id] = twin.admit(tenant, charge)
                charges[request_id], tenants[request_id] = charge, tenant
                found = float((await pool.record(request_id))["start"])
                assert found == pytest.approx(starts[request_id], abs=0.01), f"step {number}, tenant {tenant}"
            case "assign" if waiting:
                assert (await pool.assign(Move(waiting[0], 0, "e1"))).results == ["assigned"]
                twin.assign(tenants[waiting[0]], starts[waiting[0]])
                running.append(waiting[0])
            case "cancel" if waiting:
                gone = dice.choice(waiting)
                await cancel(pool.store, pool.name, gone)
                twin.drop(tenants[gone], charges[gone])
            case "finish" if running:
                done = running.pop()
                tokens = dice.randrange(0, 40)
                ending = Finish(done, 1, 1, DONE, output_tokens=tokens)
                assert await finish(pool.store, pool.name, "e1", pool.worker("e1"), [ending]) == [True]
                twin.settle(tenants[done], (tokens - 10) * PER_TOKEN)
            case _:
                pass
    kept = await pool.store.commands.get(pool.keys.virtual_time)
    assert float(kept) == pytest.approx(twin.virtual_ms, abs=0.01)
