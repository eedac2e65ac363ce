"""accept, with an engine proposed, leaves exactly what accept and then a scheduler's admit would have left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sagellm_control.store.steps.accept import (
    Proposal,
    Proposals,
    accept,
    accept_batch,
)
from sagellm_control.store.steps.admit import Admission, admit
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.store.steps.rules import INLINE_BODY_BYTES, Rules
from sagellm_control.wire.request import NewRequest

from ..clock import START_MS
from ..pool_driver import PoolDriver, new_request
from ..request_fields import EVERY_FIELD
from .at_once import CHARGE, at_once, everything, sound


async def the_usual_way(pool: PoolDriver, request: NewRequest, proposal: Proposal, rules: Rules) -> None:
    """Through its intake stream and a scheduler that decides the same."""
    assert at_once(await accept(pool.store, pool.name, [request], pool.limits)) == [False]
    (entry,) = (await pool.take()).arrivals
    admission = Admission(
        entry.level,
        entry.entry_id,
        request.id,
        proposal.rank,
        proposal.engine,
        kv_tokens=proposal.kv_tokens,
        uncached_tokens=proposal.uncached_tokens,
        charge=proposal.charge,
        wait_ms=request.queue_ttl_ms,
    )
    admitted = await admit(pool.store, pool.name, [admission], rules)
    assert admitted is not None
    assert admitted.results == ["assigned"]


BUDGETS: dict[str, Any] = {"kv_tokens": 10_000, "pace_tps": 2000.0}
WHOLE = {name: value for name, value in EVERY_FIELD.items() if name != "stage"}


@pytest.mark.parametrize("fair", [False, True], ids=["plain", "fair"])
@pytest.mark.parametrize(
    ("row", "fields", "cost"),
    [
        ({}, {}, {}),
        (BUDGETS, {}, {"kv_tokens": 300, "uncached_tokens": 500}),
        ({}, {"tenant": "t", "weight": 2.0}, {}),
        ({}, {"prefix": ("aa", "bb")}, {}),
        ({}, {"timeout_ms": 9000, "stream": True}, {}),
        ({}, {"body": b"x" * INLINE_BODY_BYTES}, {}),
        ({}, {"body": b"x" * (INLINE_BODY_BYTES + 1)}, {}),
        ({}, {"attempt": 2}, {}),
        ({"role": "prefilling"}, {"tenant": "t"}, {}),
        (BUDGETS | {"models": ("lora",)}, WHOLE, {"kv_tokens": 300, "uncached_tokens": 500}),
    ],
    ids=["bare", "budgets", "tenant", "prefix", "timeout", "inline", "large", "attempt", "prefilling", "whole"],
)
async def test_it_leaves_what_the_usual_way_leaves(
    pool: PoolDriver, row: dict[str, Any], fields: dict[str, Any], cost: dict[str, Any], fair: bool
) -> None:
    usual = PoolDriver(pool.store, pool.clock, f"{pool.name}-usual")
    charge = replace(CHARGE, flow="a-class") if "tenant" not in fields else CHARGE
    proposal = Proposal(5.0 if fair else START_MS + 7, "e1", **cost, charge=charge if fair else None)
    for driver in (pool, usual):
        driver.clock.now_ms = START_MS
        await driver.engine(slots=4, **row)
        rules = Rules(
            await set_policy(driver.store, driver.name, {"policy": "fair" if fair else "fifo"}, {}),
            fair,
            "by-name",
            True,
        )
        for request_id in ("a", "b"):  # the second one finds what the first has left
            driver.clock.advance(1000)
            request = new_request(request_id, driver.name, **fields)
            if driver is usual:
                await the_usual_way(driver, request, proposal, rules)
            else:
                proposals = Proposals([proposal], rules)
                batch = await accept_batch(driver.store, driver.name, [request], driver.limits, proposals)
                assert at_once(batch) == [True]
    assert (await everything(pool)).keys() >= {"engine:e1", "engine:e1:assigned", "request:a"}
    assert await everything(pool) == await everything(usual)
    await sound(pool)
