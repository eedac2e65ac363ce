"""Keys that somebody has made into another type: named once, and put right from the records."""

from __future__ import annotations

import logging

import pytest

from sagellm_control.keeper import reconcile
from sagellm_control.keeper.reconcile import Reconciler
from sagellm_control.store.steps.engines import renew_engine
from sagellm_control.wire.keys import PoolKeys

from ..pool_driver import LEASE_MS, PoolDriver
from ..pool_state import read_state, violations
from ..scheduler.running import everything_is_settled, schedulers
from ..waiting import wait_until

KEYS = (
    *("waiting", "room", "counters", "freed", "engines", "leases", "backlog", "tenants", "placements", "expiries"),
    *("settings", "misranked", "retries", "registrations", "reranking", "lengths", "orphans", "dead"),
)


def names_of(keys: PoolKeys) -> dict[str, str]:
    own = {"intake": keys.intake[2], "reservations": keys.reservations("e1"), "record": keys.record("wait-1")}
    return own | {name: getattr(keys, name) for name in KEYS}


@pytest.mark.parametrize("broken", names_of(PoolKeys("n", "p")))
async def test_a_key_of_a_wrong_type_is_named_once_and_work_goes_on(
    pool: PoolDriver, broken: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await pool.engine("e1", slots=1)
    await pool.running("run-1")
    await pool.waiting("wait-1", "wait-2")
    await pool.accept("queued-1")
    name = names_of(pool.keys)[broken]
    commands = pool.store.commands
    await commands.set(name, "somebody was here")
    keeper = Reconciler(pool.store, pool.name, spread_s=0)
    monkeypatch.setattr(reconcile, "TYPES_EVERY", 1)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await keeper.look()
    assert sum(repr(name) in record.getMessage() for record in caplog.records) == 1
    assert await commands.type(name) != b"string"
    # The worker's next renewal, and the end of what runs, bring everything else on its way.
    assert await renew_engine(pool.store, row, [("run-1", 1)], lease_ms=LEASE_MS) is not None
    await keeper.look()
    assert await pool.finish("run-1")
    async with schedulers(pool):

        async def next_one_is_assigned() -> bool:
            return bool(await pool.holds()) and await everything_is_settled(pool)

        await wait_until(next_one_is_assigned)
    assert violations(await read_state(pool.store, pool.keys)) == []
