"""accept, with an engine proposed, under a fair order."""

from __future__ import annotations

from dataclasses import replace

from sagellm_control.store.steps.accept import (
    Proposal,
    Proposals,
    accept_batch,
)
from sagellm_control.store.steps.admit import admit

from ..clock import START_MS
from ..pool_driver import PoolDriver, new_request
from .at_once import CHARGE, at_once, fair_rules, in_line, next_starts, sound


async def test_who_is_assigned_is_charged_and_who_goes_in_line_is_not_yet(pool: PoolDriver) -> None:
    rules = await fair_rules(pool)
    await pool.engine(slots=2)
    virtual_time = float(await pool.store.commands.get(pool.keys.virtual_time) or START_MS + 1)
    proposal = Proposal(0.0, "e1", charge=CHARGE)
    for name, result in (("a", True), ("b", True), ("c", False)):
        assert at_once(await pool.accept_at_once({name: proposal}, rules=rules, tenant="t")) == [result]
    starts = [float((await pool.record(name))["start"]) for name in "ab"]
    assert starts[0] >= virtual_time
    assert starts[1] >= starts[0] + 100.0
    assert await next_starts(pool) == {"t": 100.0}  # the virtual time is the start of b
    assert "start" not in await pool.record("c")
    (entry,) = (await pool.take()).arrivals
    admission = replace(pool.admission(entry, rank=0.0), charge=CHARGE)
    await admit(pool.store, pool.name, [admission], rules)
    assert await next_starts(pool) == {"t": 200.0}


async def test_several_at_once_are_for_a_scheduler_in_a_fair_order(pool: PoolDriver) -> None:
    """Only the starts tell which of them is first."""
    rules = await fair_rules(pool)
    await pool.engine(slots=3)
    proposal = Proposal(0.0, "e1", charge=CHARGE)
    assert at_once(await pool.accept_at_once({"a": proposal}, rules=rules, tenant="busy")) == [True]
    requests = [new_request("c", pool.name, tenant="busy"), new_request("d", pool.name, tenant="idle")]
    batch = await accept_batch(pool.store, pool.name, requests, pool.limits, Proposals([proposal] * 2, rules))
    assert at_once(batch) == [False, False]
    assert await pool.holds() == {"a"}
    assert await in_line(pool) == ["c", "d"]
    await sound(pool)


async def test_who_has_no_charge_goes_the_usual_way_in_a_fair_order(pool: PoolDriver) -> None:
    rules = await fair_rules(pool)
    await pool.engine()
    assert at_once(await pool.accept_at_once({"a": Proposal(0.0, "e1")}, rules=rules)) == [False]
    assert await in_line(pool) == ["a"]
    await sound(pool)
